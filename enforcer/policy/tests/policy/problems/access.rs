//! What rules ask of requests beside proofs.

use crate::problems::table::{each_has_one, issuer, problems, rule};

#[test]
fn of_sources_claims_roles_and_names() {
    let require = |fields: &str| rule(&format!("{{service: orders, require: {{{fields}}}}}"));
    let token = |fields: &str| require(&format!("token: {{issuer: corp, {fields}}}"));
    let mtls = |fields: &str| require(&format!("mtls: {{{fields}}}"));
    let forward = |claim: &str| {
        rule(&format!(
            "{{service: orders, require: {{token: {{issuer: corp}}}}, forward: {{claims: {{{claim}}}}}}}"
        ))
    };
    let told = |name: &str| format!("spec.rules[0].forward.claims.{name}");
    let at = "spec.rules[0].require";
    let with = |rest: &str| format!("{at}.{rest}");
    let many = format!(
        "from: ▶[{}]",
        (0..257)
            .map(|n| format!("10.0.{}.{}", n / 256, n % 256))
            .collect::<Vec<_>>()
            .join(", ")
    );
    let cases = [
        (
            rule("{service: orders, require: ▶{from: 10.0.0.0/8}}"),
            at.to_owned(),
            "nothing says who may",
        ),
        (
            require("anonymous: true, from: [▶10.0.0.1/8]"),
            with("from[0]"),
            "10.0.0.0/8",
        ),
        (
            require("anonymous: true, from: ▶[]"),
            with("from"),
            "the list is empty",
        ),
        (
            require(&format!("anonymous: true, {many}")),
            with("from"),
            "at most 256 prefixes",
        ),
        (mtls("dns: [▶'*']"), with("mtls.dns[0]"), "is no DNS name"),
        (mtls("dns: ▶10.0.0.1"), with("mtls.dns"), "is no DNS name"),
        (mtls("dns: [a.b, ▶A.b]"), with("mtls.dns[1]"), "says the same"),
        (
            mtls("subject: ▶{}"),
            with("mtls.subject"),
            "says nothing of the subject",
        ),
        (
            mtls("subject: {▶co: a}"),
            with("mtls.subject.co"),
            "there is no field `co`",
        ),
        (mtls("subject: {cn: ▶''}"), with("mtls.subject.cn"), "is no value"),
        (
            token("claims: ▶{}"),
            with("token.claims"),
            "says nothing of the claims",
        ),
        (
            token("claims: {a: ▶[]}"),
            with("token.claims.a"),
            "the list is empty",
        ),
        (
            token("claims: {a: ▶{b: 1}}"),
            with("token.claims.a"),
            "expected a text",
        ),
        (token("claims: {▶a: }"), with("token.claims.a"), "write a value"),
        (
            token("claims: {a..b: ▶1}"),
            with("token.claims.a..b"),
            "has an empty name",
        ),
        (
            rule("{service: orders, require: {mtls: {}}, forward: ▶{token: false}}"),
            "spec.rules[0].forward".to_owned(),
            "the rule requires none",
        ),
        (
            forward("x-forwarded-user: ▶sub"),
            told("x-forwarded-user"),
            "by which services learn who asks",
        ),
        (forward("host: ▶sub"), told("host"), "is changed by"),
        (forward("te: ▶sub"), told("te"), "about a connection"),
        (
            forward("content-type: ▶sub"),
            told("content-type"),
            "says something else",
        ),
        (
            forward("authorization: ▶sub"),
            told("authorization"),
            "says something else",
        ),
        (forward("a b: ▶sub"), told("a b"), "is no name of a header field"),
        (forward("x-user: ▶a..b"), told("x-user"), "has an empty name"),
        (
            require("anonymous: true, when: ▶reqest.path == '/'"),
            with("when"),
            "did you mean `request`?",
        ),
        (
            require("anonymous: true, when: \"request.path == '/' && ▶token.sub == 'a'\""),
            with("when"),
            "the rule requires no token",
        ),
        (
            token("scopes: a}, when: \"'x' in token.scopes && token.claims.a.startWith▶('b')\", mtls: {"),
            with("when"),
            "did you mean `startsWith`?",
        ),
        (
            require("anonymous: true, when: ▶\"request.path ==\\t'/' && true == 1\""),
            with("when"),
            "at character 29 of it: a truth value is never equal",
        ),
        (
            rule("{service: orders, require: ▶{when: 'true'}}"),
            at.to_owned(),
            "nothing says who may",
        ),
        (token("roles: ▶[]"), with("token.roles"), "the list is empty"),
        (token("roles: [a, ▶a]"), with("token.roles[1]"), "says the same"),
        (token("roles: ▶''"), with("token.roles"), "is no role"),
        (issuer("roles: ▶a."), "spec.roles".to_owned(), "has an empty name"),
        (
            rule("{service: orders, require: {mtls: {}}, mode: ▶try}"),
            "spec.rules[0].mode".to_owned(),
            "enforce or shadow",
        ),
    ];
    let cases: Vec<_> = cases
        .iter()
        .map(|(yaml, path, fragment)| (yaml.clone(), path.as_str(), *fragment))
        .collect();
    each_has_one(&cases);
}

#[test]
fn what_may_be_asked_has_no_problem() {
    for fields in [
        "anonymous: true, from: 10.0.0.0/8",
        "mtls: {dns: '*.example.com', subject: {cn: cart, ou: [a, b]}}, from: ['2001:db8::/32']",
        "anonymous: true, when: \"request.path == '/' || size(request.host) > 3\"",
        "token: {issuer: corp}, mtls: {}, when: \"token.claims.a == certificate.serial\"",
        "token: {issuer: corp, claims: {a: x, b.c: [1, 2.5, true], 'https://x/y': z}, roles: admin}",
    ] {
        let yaml = rule(&format!("{{service: orders, require: {{{fields}}}}}"));
        let found = problems(&yaml);
        assert!(found.is_empty(), "{fields}: {found:?}");
    }
}
