//! The token of a request (RFC 6750, section 2.1, and RFC 9449, section 7.1): from the header alone,
//! never from the query or the body (RFC 9700, section 4.3.2).

use std::fmt;

use http::{HeaderMap, header::AUTHORIZATION};
use thiserror::Error;

/// Why a request's credentials cannot be read: `invalid_request`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BearerError {
    /// RFC 6750, section 3.1: more than one method.
    #[error("several Authorization headers: send one")]
    Several,
    /// Not the scheme, one or more spaces, and a b64token.
    #[error("the Authorization header must be {0}, a space, and the token")]
    Malformed(Scheme),
}

/// By which scheme a token is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    #[default]
    Bearer,
    /// With a proof of possession (RFC 9449).
    Dpop,
}

/// As it is registered.
impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bearer => "Bearer",
            Self::Dpop => "DPoP",
        })
    }
}

/// A token as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered<'a> {
    pub scheme: Scheme,
    pub token: &'a str,
}

/// The token, if the request has one. Other schemes than `Bearer` and `DPoP` are none.
///
/// # Errors
/// If there are several Authorization headers, or one that begins as such and is malformed.
pub fn token(headers: &HeaderMap) -> Result<Option<Offered<'_>>, BearerError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (value, another) = (values.next(), values.next());
    if another.is_some() {
        return Err(BearerError::Several);
    }
    let Some(value) = value.map(http::HeaderValue::as_bytes) else {
        return Ok(None);
    };
    let name = value.split(|&byte| byte == b' ').next().unwrap_or_default();
    let scheme = if name.eq_ignore_ascii_case(b"Bearer") {
        Scheme::Bearer
    } else if name.eq_ignore_ascii_case(b"DPoP") {
        Scheme::Dpop
    } else {
        return Ok(None);
    };
    let rest = &value[name.len()..];
    let spaces = rest.iter().take_while(|&&byte| byte == b' ').count();
    let token = &rest[spaces..];
    if !is_b64token(token) {
        return Err(BearerError::Malformed(scheme));
    }
    str::from_utf8(token)
        .map(|token| Some(Offered { scheme, token }))
        .map_err(|_| BearerError::Malformed(scheme))
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
        for (value, scheme) in [
            ("Bearer a.b-c_d~e+f/g==", Scheme::Bearer),
            ("bearer a.b-c_d~e+f/g==", Scheme::Bearer),
            ("BEARER   a.b-c_d~e+f/g==", Scheme::Bearer),
            ("DPoP a.b-c_d~e+f/g==", Scheme::Dpop),
            ("dpop  a.b-c_d~e+f/g==", Scheme::Dpop),
        ] {
            let headers = headers(&[value.as_bytes()]);
            let expected = Offered {
                scheme,
                token: "a.b-c_d~e+f/g==",
            };
            assert_eq!(token(&headers), Ok(Some(expected)), "{value}");
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
            "DPoPx abc",
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
                Err(BearerError::Malformed(Scheme::Bearer)),
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
