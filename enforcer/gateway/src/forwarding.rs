//! What services are told of a verified token, beside who it is about: claims, in header fields that a rule names.

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use serde_json::Value;

use super::identity::token::VerifiedToken;
use enforcer_http_rules::reserved::{is_same_field, remove_where};
use enforcer_model::access::Forward;

/// Takes out of a client's fields those in which the rule forwards claims.
fn keep_out(fields: &mut HeaderMap, forward: &Forward) {
    if forward.claims.is_empty() {
        return;
    }
    remove_where(fields, |name| {
        forward.claims.iter().any(|(ours, _)| is_same_field(name, ours))
    });
}

/// Turns the client's fields into those that the service gets. How many claims no field can carry.
pub(super) fn apply(fields: &mut HeaderMap, forward: &Forward, token: Option<&VerifiedToken>) -> u64 {
    keep_out(fields, forward);
    if !forward.token {
        fields.remove(AUTHORIZATION);
    }
    let mut left_out = 0;
    for (name, path) in &forward.claims {
        let Some(claim) = token.and_then(|token| path.find(&token.claims)) else {
            continue;
        };
        match spoken(claim) {
            Some(value) => {
                fields.insert(name.clone(), value);
            }
            None => {
                left_out += 1;
                tracing::debug!(field = %name, claim = %path, "a claim cannot be told in a header field");
            }
        }
    }
    left_out
}

/// A claim as the value of a field: a text, a number, a truth value, or texts with commas between.
fn spoken(claim: &Value) -> Option<HeaderValue> {
    let text = match claim {
        Value::String(text) => return field_value(text),
        Value::Number(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Array(elements) => {
            let texts: Option<Vec<_>> = elements.iter().map(speakable).collect();
            texts?.join(",")
        }
        Value::Null | Value::Object(_) => return None,
    };
    field_value(&text)
}

/// An element of an array. One with a comma would be taken for two.
fn speakable(element: &Value) -> Option<&str> {
    let text = element.as_str().filter(|text| !text.contains(','))?;
    field_value(text).map(|_| text)
}

/// RFC 9110, section 5.5: without control characters, and without space at the ends, which would be lost on the way.
fn field_value(text: &str) -> Option<HeaderValue> {
    if text != text.trim_matches([' ', '\t']) {
        return None;
    }
    HeaderValue::from_bytes(text.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_are_told_if_a_field_can_carry_them() {
        for (claim, told) in [
            (json!("alice@example.com"), Some("alice@example.com")),
            (json!(""), Some("")),
            (json!(7), Some("7")),
            (json!(1.5), Some("1.5")),
            (json!(true), Some("true")),
            (json!(["a", "b"]), Some("a,b")),
            (json!([]), Some("")),
            (json!(["a,b"]), None),
            (json!(["a", 1]), None),
            (json!([" a"]), None),
            (json!("a\r\nx-admin: 1"), None),
            (json!("a\u{0}"), None),
            (json!(" a"), None),
            (json!("a\t"), None),
            (json!({"a": 1}), None),
            (json!(null), None),
        ] {
            let value = spoken(&claim);
            let value = value.as_ref().map(|value| value.to_str().unwrap());
            assert_eq!(value, told, "{claim}");
        }
    }

    #[test]
    fn what_clients_write_there_is_removed() {
        let forward = Forward {
            claims: vec![(HeaderName::from_static("x-user-email"), "email".parse().unwrap())],
            token: false,
        };
        let mut fields = HeaderMap::new();
        for name in [
            "x-user-email",
            "x_user_email",
            "x.user-email",
            "authorization",
            "x-user-emails",
        ] {
            fields.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                "admin".parse().unwrap(),
            );
        }
        assert_eq!(apply(&mut fields, &forward, None), 0);
        let left: Vec<_> = fields.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["x-user-emails"]);
    }
}
