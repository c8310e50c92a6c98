//! Expressions with what they come to, and what is wrong with those that do not load.

use std::{sync::Arc, time::SystemTime};

use http::{HeaderMap, Method};
use proptest::prelude::*;
use serde_json::{Map, Value as Json, json};

use super::*;
use crate::identity::{
    scope::Scopes,
    token::{Binding, VerifiedToken},
};
use enforcer_model::ApiKey;
use enforcer_policy::cel::{Scope, compile};
use enforcer_tls::{certificate::ClientCertificate, names::Names};

const ALL: Scope = Scope {
    token: true,
    certificate: true,
    api_key: true,
};

fn claims() -> Map<String, Json> {
    let claims = json!({
        "iss": "https://idp.example.com", "email": "alice@example.com", "verified": true, "level": 2, "ratio": 0.5,
        "large": 18_446_744_073_709_551_615_u64, "none": null, "groups": ["staff", "ops", 7],
        "realm": {"roles": ["admin"], "deep": {"x-y": 1}}, "https://example.com/team": "blue",
    });
    claims.as_object().unwrap().clone()
}

fn token() -> VerifiedToken {
    VerifiedToken {
        issuer: "corp".parse().unwrap(),
        subject: "alice".into(),
        client_id: None,
        scopes: Scopes::of_claims(json!({"scope": "read write"}).as_object().unwrap()).unwrap(),
        expires: SystemTime::UNIX_EPOCH,
        holds_until: None,
        id: None,
        binding: Binding::Bearer,
        tier: None,
        claims: claims(),
    }
}

fn certificate() -> ClientCertificate {
    ClientCertificate {
        identity: "spiffe://example.com/cart".into(),
        spiffe: Some("spiffe://example.com/cart".into()),
        spiffe_problem: None,
        subject: "CN=cart".into(),
        names: Names {
            dns: vec!["cart.example.com".into()],
            subject: Vec::new(),
            serial: "8f01".into(),
        },
        fingerprint_sha256: [7; 32],
        issuer: "CN=authority".into(),
        serial: [1].as_slice().into(),
        not_after: SystemTime::UNIX_EPOCH,
        authority: None,
    }
}

fn key() -> ApiKey {
    ApiKey {
        document: "partners".parse().unwrap(),
        id: "partner-a".into(),
        hash: [0; 32],
        owner: "Partner A".into(),
        tier: None,
        roles: vec!["reader".into(), "writer".into()],
        expires: None,
    }
}

/// What the expression says of one request.
fn said(text: &str) -> Result<bool, NoValue> {
    let condition = compile(text, ALL).unwrap_or_else(|fault| panic!("{text}: {fault:?}"));
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("x-tenant", "blue"),
        ("x-twice", "a"),
        ("x-twice", "b"),
        ("x-number", "7"),
    ] {
        headers.append(name, value.parse().unwrap());
    }
    headers.insert("x-bytes", http::HeaderValue::from_bytes(b"\xff").unwrap());
    let (token, certificate) = (token(), certificate());
    let facts = Facts {
        method: &Method::POST,
        path: "/v1/orders/7",
        host: "api.example.com",
        query: Some("a=1&b=2&b=3&name=J%C3%BCrgen+K&flag&bad=%ff"),
        headers: &headers,
        source: "10.1.2.3".parse().unwrap(),
        token: Some(&token),
        certificate: Some(&certificate),
        key: Some(&key()),
    };
    evaluate(&condition, &facts)
}

const YES: Result<bool, NoValue> = Ok(true);
const NO: Result<bool, NoValue> = Ok(false);
const NONE: Result<bool, NoValue> = Err(NoValue);

#[test]
fn expressions_say_what_cel_says() {
    for (text, expected) in [
        ("true", YES),
        ("!true", NO),
        ("1 < 2 && 2 <= 2 && 3 > 2 && 2 >= 2", YES),
        ("1 == 1.0 && 1 != 2", YES),
        ("'a' < 'b'", YES),
        ("9223372036854775807 < 9223372036854775807.0", YES),
        ("-1 < -0.5 && -1 > -1.5", YES),
        ("request.method == 'POST'", YES),
        ("apiKey.id == 'partner-a' && apiKey.owner == 'Partner A'", YES),
        ("'reader' in apiKey.roles && size(apiKey.roles) == 2", YES),
        ("'admin' in apiKey.roles", NO),
        ("has(apiKey.tier)", NO),
        ("apiKey.tier == 'gold'", NONE),
        ("request.method in ['GET', 'HEAD']", NO),
        ("request.path.startsWith('/v1/')", YES),
        ("request.path.endsWith(\"/7\")", YES),
        ("request.path.contains('orders')", YES),
        ("request.path.matches('^/v[0-9]+/orders/[0-9]+$')", YES),
        ("matches(request.path, 'orders$')", NO),
        ("request.host == 'api.example.com'", YES),
        (
            "request.headers['x-tenant'] == token.claims['https://example.com/team']",
            YES,
        ),
        ("request.headers['x-tenant'] != 'blue'", NO),
        ("'x-tenant' in request.headers", YES),
        ("'x-none' in request.headers", NO),
        ("request.headers['x-none'] == 'a'", NONE),
        ("request.headers['x-none'] != 'a'", NONE),
        ("request.headers['x-twice'] == 'a'", NONE),
        ("request.headers['x-bytes'] == 'a'", NONE),
        ("has(request.headers.host) || 'x-twice' in request.headers", YES),
        ("request.query['a'] == '1' && request.query.a == '1'", YES),
        ("request.query.b == '2'", NONE),
        ("request.query.name == 'Jürgen K'", YES),
        ("request.query.flag == ''", YES),
        ("'bad' in request.query && request.query.bad != 'x'", YES),
        ("has(request.query.c)", NO),
        ("cidr('10.0.0.0/8').containsIP(request.source)", YES),
        ("cidr('2001:db8::/32').containsIP(request.source)", NO),
        ("request.source == ip('10.1.2.3')", YES),
        ("request.source == ip('::ffff:10.1.2.3')", YES),
        ("token.sub == 'alice' && token.iss.startsWith('https://')", YES),
        ("token.client_id == 'web'", NONE),
        ("has(token.client_id)", NO),
        ("'read' in token.scopes && size(token.scopes) == 2", YES),
        ("'rea' in token.scopes", NO),
        (
            "token.claims.email.endsWith('@example.com') && token.claims.verified",
            YES,
        ),
        ("token.claims.level >= 2 && token.claims.ratio < 1", YES),
        ("token.claims.level == '2'", NO),
        ("token.claims.level < 'b'", NONE),
        ("token.claims.large > 9223372036854775807", YES),
        ("token.claims.none == null && token.claims.level != null", YES),
        ("token.claims.missing == null", NONE),
        ("has(token.claims.none) && !has(token.claims.missing)", YES),
        ("has(token.claims.realm.deep) && 'email' in token.claims", YES),
        ("'staff' in token.claims.groups && 7 in token.claims.groups", YES),
        ("'admin' in token.claims.realm.roles", YES),
        ("token.claims.realm.deep['x-y'] == 1", YES),
        (
            "'roles' in token.claims.realm && size(token.claims.realm) == 2",
            YES,
        ),
        ("'a' in token.claims.email", NONE),
        ("token.claims.level", NONE),
        ("token.claims.groups == 'staff'", NO),
        ("token.claims.email.matches('^[^@]+@example[.]com$')", YES),
        ("token.claims.level.startsWith('2')", NONE),
        ("size('äöü') == 3 && 'äöü'.size() == 3 && size([1, 2]) == 2", YES),
        ("size(token.claims.level) == 1", NONE),
        ("certificate.spiffe.startsWith('spiffe://example.com/')", YES),
        ("'cart.example.com' in certificate.dns", YES),
        (
            "certificate.subject == 'CN=cart' && certificate.serial == '8f01'",
            YES,
        ),
        ("token.claims.missing == 1 || true", YES),
        ("true || token.claims.missing == 1", YES),
        ("token.claims.missing == 1 && false", NO),
        ("false && token.claims.missing == 1", NO),
        ("token.claims.missing == 1 || false", NONE),
        ("token.claims.missing == 1 && true", NONE),
        ("!(token.claims.missing == 1)", NONE),
        ("request.method == 'POST' ? token.claims.verified : false", YES),
        ("request.method == 'GET' ? token.claims.missing == 1 : true", YES),
        ("token.claims.missing == 1 ? true : true", NONE),
        ("(token.claims.level > 1 ? 'a' : 'b') in ['a']", YES),
        ("1u == 1 && 0x10 == 16 && r'\\d' != '\\\\e'", YES),
        ("true // with a comment\n&& !false", YES),
    ] {
        assert_eq!(said(text), expected, "{text}");
    }
}

#[test]
fn what_cannot_be_meant_does_not_load() {
    let long = format!("request.path == '{}'", "a".repeat(2048));
    let wide = format!("request.method in [{}'a']", "'a',".repeat(300));
    let many = vec!["true"; 200].join("&&");
    let deep = format!("{}true{}", "(".repeat(65), ")".repeat(65));
    let mut others = Vec::new();
    let huge = "request.path.matches('(\\\\w{100}){100}')";
    for (text, offset, message) in [
        ("", 0, "no CEL"),
        ("request.path ==", 15, "no CEL"),
        ("request.path = 'a'", 13, "no CEL"),
        ("request.method", 7, "expected a truth value, and this is a text"),
        ("request", 0, "alone is no value"),
        ("request.paths == 'a'", 7, "`paths` is not known"),
        ("requests.path == 'a'", 0, "`requests` is not known"),
        ("a == 1", 0, "`a` is not known"),
        ("request.path.x == 'a'", 12, "`path` has no members"),
        ("request.headers == 'a'", 7, "this is no value"),
        ("request.headers['X-Name'] == 'a'", 16, "write \"x-name\""),
        (
            "request.headers[request.path] == 'a'",
            23,
            "a key is a text in quotes",
        ),
        ("request.headers['a b'] == 'a'", 16, "is no name of a header"),
        ("request.headers.host.x == 'a'", 20, "have no members"),
        ("request.path in request.headers", 7, "a key is a text in quotes"),
        ("token.claims == 1", 5, "this is no value"),
        ("token.scope == 'a'", 5, "`scope` is not known"),
        ("token.scopes == ['a']", 13, "is never equal"),
        ("token.scopes[0] == 'a'", 13, "a key is a text in quotes"),
        ("request.path == 1", 13, "a text is never equal to a whole number"),
        ("request.path < 1", 13, "have no order"),
        ("true < false", 5, "have no order"),
        (
            "request.source == '10.0.0.1'",
            15,
            "an address is never equal to a text",
        ),
        ("request.path && true", 7, "expected a truth value"),
        ("!request.path", 8, "expected a truth value"),
        ("1 in ['a']", 2, "is never in a list of texts"),
        ("'a' in 'abc'", 7, "expected a list"),
        ("request.path in [request.host]", 24, "are literals here"),
        ("request.path + 'a' == 'b'", 13, "not calculated"),
        ("-token.claims.level < 1", 0, "not calculated"),
        ("[1, 2].exists(x, x > 1)", 13, "macros"),
        ("token.claims.groups.all(g, g == 'a')", 23, "macros"),
        ("has(token)", 4, "no CEL: invalid argument to has() macro"),
        ("has(token.claims)", 3, "always there"),
        ("{'a': 1} == 1", 0, "maps cannot be written"),
        ("b'a' == b'a'", 0, "bytes are not supported"),
        (
            "request.path.startWith('a')",
            22,
            "there is no function `startWith`",
        ),
        ("startsWith(request.path, 'a')", 10, "is called of a value"),
        ("request.path.startsWith(1)", 24, "expected a text"),
        (
            "request.path.startsWith('a', 'b')",
            23,
            "expected 1 arguments, found 2",
        ),
        (
            "request.path.matches(request.host)",
            28,
            "expected a text in quotes",
        ),
        ("request.path.matches('(')", 21, "is no regular expression"),
        (huge, 21, "takes more than 256 KiB"),
        ("cidr('10.0.0.1/8').containsIP(request.source)", 5, "10.0.0.0/8"),
        ("cidr('10.0.0.0/8')", 4, "a prefix alone"),
        (
            "cidr('10.0.0.0/8').containsIP(request.path)",
            37,
            "expected an address",
        ),
        ("request.path.containsIP(request.source)", 7, "expected a prefix"),
        ("request.source == ip('10.0.0')", 21, "is no address"),
        ("size(1) == 1", 5, "has no size"),
        ("true ? 1 : 'a'", 5, "one branch is a whole number"),
        ("18446744073709551615u == 1", 0, "too large"),
        (&long, 0, "longer than 2048 bytes"),
        (&wide, 7, "more than 256 parts"),
        (&deep, 0, "opening brackets"),
    ] {
        let fault = compile(text, ALL).expect_err(text);
        if !fault.message.contains(message) || fault.offset != offset {
            others.push(format!("{text}: not at {offset} `{message}`, but {fault:?}"));
        }
    }
    assert!(others.is_empty(), "{}", others.join("\n"));
    let fault = compile(&many, ALL).unwrap_err();
    assert!(fault.message.contains("more than 256 parts"), "{fault:?}");
}

#[test]
fn nothing_is_looked_at_that_the_rule_does_not_require() {
    let none = Scope {
        token: false,
        certificate: false,
        api_key: false,
    };
    for text in [
        "token.sub == 'a'",
        "has(token.claims.a)",
        "'a' in token.scopes",
        "'a' in token.claims",
    ] {
        let message = compile(text, none).expect_err(text).message;
        assert!(message.contains("requires no token"), "{text}: {message}");
    }
    for text in [
        "certificate.spiffe == 'a'",
        "has(certificate.spiffe)",
        "'a' in certificate.dns",
    ] {
        let message = compile(text, none).expect_err(text).message;
        assert!(
            message.contains("requires no client certificate"),
            "{text}: {message}"
        );
    }
    assert!(compile("request.path == '/'", none).is_ok());
}

#[test]
fn the_claims_that_are_looked_at_are_known() {
    let text = "has(token.claims.a) && token.claims.b.c == 1 || 'd' in token.claims || token.iss == 'x' && size(token.claims['e/f']) > 1";
    let condition = compile(text, ALL).unwrap();
    let paths: Vec<String> = condition.claims().map(ToString::to_string).collect();
    assert_eq!(paths, ["a", "b.c", "d", "iss", "e/f"]);
    assert_eq!(condition.text, Arc::from(text));
}

#[test]
fn the_parser_withstands_what_nests() {
    for text in [
        "[".repeat(64) + &"]".repeat(64),
        "(".repeat(64),
        "!".repeat(2000) + "true",
        "-".repeat(2000) + "1",
        "request".to_owned() + &".a".repeat(1000),
        "true ? ".repeat(290),
        "true".to_owned() + &"==true".repeat(340),
        "true".to_owned() + &"||true".repeat(340),
        "a".to_owned() + &"['a']".repeat(60),
    ] {
        if let Err(fault) = compile(&text, ALL) {
            assert_ne!(fault.message, "the condition cannot be parsed", "{text}");
        }
    }
}

#[test]
fn no_text_panics() {
    let parts = prop::sample::select(vec![
        "request", ".", "path", "token", "claims", "[", "]", "(", ")", "'a'", "\"", "'", "1", "==", "&&",
        "||", "!", "-", "?", ":", "in", "has", "size", ",", " ", "\n", "\\", "é", "{", "}", "`", "r'",
        "\u{0}",
    ]);
    let config = ProptestConfig {
        failure_persistence: None,
        cases: 200,
        ..ProptestConfig::default()
    };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    runner
        .run(&prop::collection::vec(parts, 0..20), |parts| {
            let text = parts.concat();
            if let Err(fault) = compile(&text, ALL) {
                prop_assert_ne!(fault.message, "the condition cannot be parsed", "{}", text);
            }
            Ok(())
        })
        .unwrap();
}
