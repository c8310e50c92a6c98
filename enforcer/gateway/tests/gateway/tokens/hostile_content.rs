//! Tokens with headers and claims that they must not have.

use enforcer_gateway::identity::token::TokenError;
use serde_json::{Value, json};

use crate::tokens::{
    issuer::{NOW, SigningKey, claims},
    trust::{Trust, with, without},
};

/// Headers that a token must not have, under a signature that holds.
fn hostile_headers(key: &SigningKey) -> Vec<(&'static str, String, TokenError)> {
    let header = |name: &str, value: Value| with(key.header(), name, value).to_string();
    let lacking = |name: &str| without(key.header(), name).to_string();
    let twice = format!(
        r#"{{"alg":"none","alg":"ES256","typ":"at+jwt","kid":"{}"}}"#,
        key.id
    );
    vec![
        ("alg none", header("alg", json!("none")), TokenError::Unsigned),
        ("alg None", header("alg", json!("None")), TokenError::Unsigned),
        ("alg empty", header("alg", json!("")), TokenError::Algorithm),
        (
            "alg in lower case",
            header("alg", json!("es256")),
            TokenError::Algorithm,
        ),
        (
            "alg not allowed",
            header("alg", json!("PS256")),
            TokenError::Algorithm,
        ),
        (
            "alg symmetric",
            header("alg", json!("HS256")),
            TokenError::Unsigned,
        ),
        ("alg null", header("alg", json!(null)), TokenError::Header),
        (
            "alg an array",
            header("alg", json!(["ES256"])),
            TokenError::Header,
        ),
        ("alg missing", lacking("alg"), TokenError::Header),
        ("alg twice", twice, TokenError::NotJson),
        (
            "alg of another key",
            header("alg", json!("RS256")),
            TokenError::OtherAlgorithm,
        ),
        ("typ JWT", header("typ", json!("JWT")), TokenError::Type),
        (
            "typ of an ID token",
            header("typ", json!("id+jwt")),
            TokenError::Type,
        ),
        (
            "typ of a proof",
            header("typ", json!("dpop+jwt")),
            TokenError::Type,
        ),
        (
            "typ of another tree",
            header("typ", json!("text/at+jwt")),
            TokenError::Type,
        ),
        (
            "typ with a space",
            header("typ", json!("at+jwt ")),
            TokenError::Type,
        ),
        ("typ a number", header("typ", json!(1)), TokenError::Header),
        ("typ missing", lacking("typ"), TokenError::Type),
        ("kid unknown", header("kid", json!("f")), TokenError::UnknownKey),
        ("kid empty", header("kid", json!("")), TokenError::UnknownKey),
        (
            "kid a path",
            header("kid", json!("../../../../dev/null")),
            TokenError::UnknownKey,
        ),
        (
            "kid an address",
            header("kid", json!("https://evil.example/e")),
            TokenError::UnknownKey,
        ),
        (
            "kid a query",
            header("kid", json!("' OR 1=1 --")),
            TokenError::UnknownKey,
        ),
        (
            "kid with NUL",
            header("kid", json!("e\u{0}")),
            TokenError::UnknownKey,
        ),
        (
            "kid in upper case",
            header("kid", json!("E")),
            TokenError::UnknownKey,
        ),
        ("kid null", header("kid", json!(null)), TokenError::Header),
        ("kid a number", header("kid", json!(0)), TokenError::Header),
        ("crit", header("crit", json!(["exp"])), TokenError::Critical),
        ("crit empty", header("crit", json!([])), TokenError::Critical),
        (
            "crit with b64",
            with(with(key.header(), "b64", false), "crit", json!(["b64"])).to_string(),
            TokenError::Critical,
        ),
        ("an array", "[]".to_owned(), TokenError::NotJson),
        ("no JSON", "alg=ES256".to_owned(), TokenError::NotJson),
        (
            "two objects",
            format!("{}{{}}", key.header()),
            TokenError::NotJson,
        ),
    ]
}

/// Claims that a token must not have, under a signature that holds.
fn hostile_claims() -> Vec<(&'static str, String, TokenError)> {
    let claim = |name: &str, value: Value| with(claims(), name, value).to_string();
    let lacking = |name: &str| without(claims(), name).to_string();
    let again = |member: &str| claims().to_string().replacen('{', &format!("{{{member},"), 1);
    vec![
        (
            "iss of another",
            claim("iss", json!("https://idp.example.org")),
            TokenError::Issuer,
        ),
        (
            "iss with a slash",
            claim("iss", json!("https://idp.example.com/")),
            TokenError::Issuer,
        ),
        (
            "iss in upper case",
            claim("iss", json!("HTTPS://idp.example.com")),
            TokenError::Issuer,
        ),
        (
            "iss an array",
            claim("iss", json!(["https://idp.example.com"])),
            TokenError::Invalid("iss"),
        ),
        ("iss missing", lacking("iss"), TokenError::Missing("iss")),
        (
            "aud of another",
            claim("aud", json!("payments")),
            TokenError::Audience,
        ),
        (
            "aud of others",
            claim("aud", json!(["payments", "orders2"])),
            TokenError::Audience,
        ),
        ("aud none", claim("aud", json!([])), TokenError::Audience),
        (
            "aud several in one",
            claim("aud", json!("orders billing")),
            TokenError::Audience,
        ),
        (
            "aud an object",
            claim("aud", json!({"orders": 1})),
            TokenError::Invalid("aud"),
        ),
        (
            "aud with a number",
            claim("aud", json!(["orders", 1])),
            TokenError::Invalid("aud"),
        ),
        ("aud null", claim("aud", json!(null)), TokenError::Invalid("aud")),
        ("aud missing", lacking("aud"), TokenError::Missing("aud")),
        ("exp missing", lacking("exp"), TokenError::Missing("exp")),
        ("exp past", claim("exp", json!(NOW - 30)), TokenError::Expired),
        (
            "exp past, with a fraction",
            claim("exp", json!(1_799_999_970.9)),
            TokenError::Expired,
        ),
        ("exp zero", claim("exp", json!(0)), TokenError::Expired),
        (
            "exp negative",
            claim("exp", json!(-1)),
            TokenError::Invalid("exp"),
        ),
        (
            "exp a string",
            claim("exp", json!("1900000000")),
            TokenError::Invalid("exp"),
        ),
        ("exp null", claim("exp", json!(null)), TokenError::Invalid("exp")),
        ("exp true", claim("exp", json!(true)), TokenError::Invalid("exp")),
        (
            "exp an array",
            claim("exp", json!([NOW + 1])),
            TokenError::Invalid("exp"),
        ),
        (
            "exp in milliseconds, as good as never",
            claim("exp", json!(1_800_000_300_000_u64)),
            TokenError::Invalid("exp"),
        ),
        (
            "exp out of range",
            claim("exp", json!(1e300)),
            TokenError::Invalid("exp"),
        ),
        (
            "exp the largest",
            claim("exp", json!(u64::MAX)),
            TokenError::Invalid("exp"),
        ),
        ("exp infinite", again(r#""x":1e999"#), TokenError::NotJson),
        ("exp twice", again(r#""exp":9999999999"#), TokenError::NotJson),
        (
            "sub twice, once escaped",
            again(r#""\u0073ub":"admin""#),
            TokenError::NotJson,
        ),
        (
            "twice further down",
            again(r#""x":{"y":1,"y":2}"#),
            TokenError::NotJson,
        ),
        (
            "nbf future",
            claim("nbf", json!(NOW + 31)),
            TokenError::NotYetValid,
        ),
        (
            "nbf future, by a fraction",
            claim("nbf", json!(1_800_000_030.1)),
            TokenError::NotYetValid,
        ),
        (
            "nbf a string",
            claim("nbf", json!("0")),
            TokenError::Invalid("nbf"),
        ),
        (
            "iat future",
            claim("iat", json!(NOW + 31)),
            TokenError::IssuedInFuture,
        ),
        (
            "iat an object",
            claim("iat", json!({})),
            TokenError::Invalid("iat"),
        ),
        ("sub missing", lacking("sub"), TokenError::Missing("sub")),
        ("sub empty", claim("sub", json!("")), TokenError::Invalid("sub")),
        ("sub a number", claim("sub", json!(0)), TokenError::Invalid("sub")),
        (
            "client_id a number",
            claim("client_id", json!(7)),
            TokenError::Invalid("client_id"),
        ),
        (
            "jti an object",
            claim("jti", json!({})),
            TokenError::Invalid("jti"),
        ),
        (
            "scope beyond ASCII",
            claim("scope", json!("orders:re\u{430}d")),
            TokenError::Invalid("scope"),
        ),
        (
            "scope with a tab",
            claim("scope", json!("orders:read\torders:write")),
            TokenError::Invalid("scope"),
        ),
        (
            "scope an array",
            claim("scope", json!(["orders:read"])),
            TokenError::Invalid("scope"),
        ),
        ("an array", "[]".to_owned(), TokenError::NotJson),
        (
            "deep",
            format!("{}{}", "[".repeat(3000), "]".repeat(3000)),
            TokenError::NotJson,
        ),
        ("empty", String::new(), TokenError::NotJson),
    ]
}

#[tokio::test]
async fn hostile_headers_and_claims_are_refused() {
    let key = SigningKey::es256("e");
    let trust = Trust::in_keys(&[&key]).await;
    for (what, header, error) in hostile_headers(&key) {
        assert_eq!(
            trust.verify(&key.token(&header, &claims())),
            Err(error),
            "{what}: {header}"
        );
    }
    for (what, claims, error) in hostile_claims() {
        let token = key.token(&key.header(), &claims);
        assert_eq!(trust.verify(&token), Err(error), "{what}: {claims}");
    }
}
