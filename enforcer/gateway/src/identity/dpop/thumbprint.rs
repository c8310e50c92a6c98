//! The thumbprint of a key (RFC 7638): the hash of its required members, in order of name, without
//! spaces.

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Map, Value};

/// The thumbprint by SHA-256; `None` if a member is missing or no text, or the type is none that is known.
pub(super) fn of(key: &Map<String, Value>) -> Option<[u8; 32]> {
    let names: &[&str] = match key.get("kty")?.as_str()? {
        "EC" => &["crv", "kty", "x", "y"],
        // RFC 8037, section 2.
        "OKP" => &["crv", "kty", "x"],
        "RSA" => &["e", "kty", "n"],
        _ => return None,
    };
    let mut text = String::from("{");
    for name in names {
        let value = key.get(*name).filter(|value| value.is_string())?;
        let separator = if text.len() == 1 { "" } else { "," };
        text += &format!("{separator}\"{name}\":{value}");
    }
    text.push('}');
    digest(&SHA256, text.as_bytes()).as_ref().try_into().ok()
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use serde_json::json;

    use super::*;

    #[test]
    fn thumbprints_are_those_of_the_standards() {
        for (key, expected) in [
            (
                // RFC 7638, section 3.1.
                json!({
                    "kty": "RSA",
                    "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
                    "e": "AQAB", "alg": "RS256", "kid": "2011-04-29",
                }),
                "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs",
            ),
            (
                // RFC 8037, appendix A.3.
                json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}),
                "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
            ),
            (
                // RFC 9449, sections 4.2 and 6.1.
                json!({
                    "kty": "EC", "crv": "P-256",
                    "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
                    "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA",
                }),
                "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I",
            ),
        ] {
            let thumbprint = of(key.as_object().unwrap()).unwrap();
            assert_eq!(URL_SAFE_NO_PAD.encode(thumbprint), expected);
        }
    }

    #[test]
    fn what_is_no_public_key_has_none() {
        for key in [
            json!({}),
            json!({"kty": 1}),
            json!({"kty": "oct", "k": "AAAA"}),
            json!({"kty": "EC", "crv": "P-256", "x": "AAAA"}),
            json!({"kty": "EC", "crv": "P-256", "x": "AAAA", "y": 1}),
        ] {
            assert_eq!(of(key.as_object().unwrap()), None, "{key}");
        }
    }
}
