//! The bearer token of a request (RFC 6750, section 2.1): from the header alone, never from the query
//! or the body (RFC 9700, section 4.3.2).

use http::{HeaderMap, header::AUTHORIZATION};
use thiserror::Error;

/// Why a request's credentials cannot be read: `invalid_request`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BearerError {
    /// RFC 6750, section 3.1: more than one method.
    #[error("several Authorization headers: send one")]
    Several,
    /// Not `Bearer`, one or more spaces, and a b64token.
    #[error("the Authorization header must be Bearer, a space, and the token")]
    Malformed,
}

/// The token, if the request has one. Other schemes than `Bearer` are none.
///
/// # Errors
/// If there are several Authorization headers, or one that begins as `Bearer` and is malformed.
pub fn token(headers: &HeaderMap) -> Result<Option<&str>, BearerError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (value, another) = (values.next(), values.next());
    if another.is_some() {
        return Err(BearerError::Several);
    }
    let Some(value) = value.map(http::HeaderValue::as_bytes) else {
        return Ok(None);
    };
    let scheme = value.split(|&byte| byte == b' ').next().unwrap_or_default();
    if !scheme.eq_ignore_ascii_case(b"Bearer") {
        return Ok(None);
    }
    let rest = &value[scheme.len()..];
    let spaces = rest.iter().take_while(|&&byte| byte == b' ').count();
    let token = &rest[spaces..];
    if !is_b64token(token) {
        return Err(BearerError::Malformed);
    }
    str::from_utf8(token)
        .map(Some)
        .map_err(|_| BearerError::Malformed)
}

/// One or more of the alphabet, then any number of `=`.
fn is_b64token(text: &[u8]) -> bool {
    let padding = text.iter().rev().take_while(|&&byte| byte == b'=').count();
    let body = &text[..text.len() - padding];
    !body.is_empty()
        && body.iter().all(|byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/')
        })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(values: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[test]
    fn tokens_are_found() {
        for value in [
            "Bearer a.b-c_d~e+f/g==",
            "bearer a.b-c_d~e+f/g==",
            "BEARER   a.b-c_d~e+f/g==",
        ] {
            let headers = headers(&[value.as_bytes()]);
            assert_eq!(token(&headers), Ok(Some("a.b-c_d~e+f/g==")), "{value}");
        }
    }

    #[test]
    fn other_credentials_are_no_token() {
        assert_eq!(token(&headers(&[])), Ok(None));
        for value in [
            "",
            "Basic YTpi",
            "BearerX abc",
            "Bearer\tabc",
            "Token Bearer abc",
            "DPoP abc",
        ] {
            assert_eq!(token(&headers(&[value.as_bytes()])), Ok(None), "{value}");
        }
    }

    #[test]
    fn malformed_credentials_are_refused() {
        let malformed: [&[u8]; 9] = [
            b"Bearer \tabc",
            b"Bearer",
            b"Bearer ",
            b"Bearer ==",
            b"Bearer a=b",
            b"Bearer a b",
            b"Bearer a,Bearer b",
            b"Bearer \"a\"",
            b"Bearer \xc3\xa4",
        ];
        for value in malformed {
            assert_eq!(
                token(&headers(&[value])),
                Err(BearerError::Malformed),
                "{value:?}"
            );
        }
        assert_eq!(
            token(&headers(&[b"Bearer a", b"Bearer a"])),
            Err(BearerError::Several)
        );
        assert_eq!(
            token(&headers(&[b"Bearer a", b"Basic YTpi"])),
            Err(BearerError::Several)
        );
    }
}
