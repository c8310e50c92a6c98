//! The token of a request (RFC 6750, section 2.1, and RFC 9449, section 7.1): from the header alone,
//! never from the query or the body (RFC 9700, section 4.3.2).

use std::fmt;

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
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

impl BearerError {
    /// Whether what was sent is a token that no issuer can have made.
    #[must_use]
    pub fn is_forged(self) -> bool {
        matches!(self, Self::Malformed(_))
    }
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

/// The value of the `Authorization` field, if there is one.
///
/// # Errors
/// If there are several.
pub fn field(headers: &HeaderMap) -> Result<Option<&[u8]>, BearerError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(BearerError::Several),
        (value, None) => Ok(value.map(HeaderValue::as_bytes)),
    }
}

/// The token in the `value` of an `Authorization` field, at its end. Other schemes than `Bearer` and `DPoP` have none.
///
/// # Errors
/// If it begins as such and is malformed.
pub fn token(value: &[u8]) -> Result<Option<Offered<'_>>, BearerError> {
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
    // All of them are looked at, so that many are at once.
    !body.is_empty() && body.iter().fold(true, |good, &byte| good & is_b64(byte))
}

fn is_b64(byte: u8) -> bool {
    let is_letter = (byte | 0x20).wrapping_sub(b'a') < 26;
    // `-`, `.` and `/` stand before the digits.
    let is_digit = byte.wrapping_sub(b'-') < 13;
    is_letter | is_digit | (byte == b'_') | (byte == b'~') | (byte == b'+')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    fn found(headers: &HeaderMap) -> Result<Option<Offered<'_>>, BearerError> {
        field(headers)?.map_or(Ok(None), token)
    }

    #[test]
    fn the_alphabet_is_that_of_the_rfc() {
        for byte in 0..=u8::MAX {
            let expected = byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
            assert_eq!(is_b64(byte), expected, "{byte}");
        }
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
            assert_eq!(found(&headers), Ok(Some(expected)), "{value}");
        }
    }

    #[test]
    fn other_credentials_are_no_token() {
        assert_eq!(found(&headers(&[])), Ok(None));
        for value in [
            "",
            "Basic YTpi",
            "BearerX abc",
            "Bearer\tabc",
            "Token Bearer abc",
            "DPoPx abc",
        ] {
            assert_eq!(found(&headers(&[value.as_bytes()])), Ok(None), "{value}");
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
                found(&headers(&[value])),
                Err(BearerError::Malformed(Scheme::Bearer)),
                "{value:?}"
            );
        }
        assert_eq!(
            found(&headers(&[b"Bearer a", b"Bearer a"])),
            Err(BearerError::Several)
        );
        assert_eq!(
            found(&headers(&[b"Bearer a", b"Basic YTpi"])),
            Err(BearerError::Several)
        );
    }
}
