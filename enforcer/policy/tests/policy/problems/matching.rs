//! What rules look at in requests.

use crate::problems::table::{each_has_one, problems, rule};

fn with(fields: &str) -> String {
    rule(&format!(
        "{{require: {{anonymous: true}}, service: orders, match: {{{fields}}}}}"
    ))
}

#[test]
fn of_matches() {
    let long = "a".repeat(1025);
    each_has_one(&[
        (
            with("path: {regex: ▶'(/a'}"),
            "spec.rules[0].match.path.regex",
            "unclosed group",
        ),
        (
            with("path: {regex: ▶'/a)|(/b'}"),
            "spec.rules[0].match.path.regex",
            "is no regular expression",
        ),
        (
            with("path: {regex: ▶'((/a{100}){100}){100}'}"),
            "spec.rules[0].match.path.regex",
            "more than 256 KiB",
        ),
        (
            with(&format!("path: {{regex: ▶'{long}'}}")),
            "spec.rules[0].match.path.regex",
            "1024 are the most",
        ),
        (
            with("headers: [▶{exact: a}]"),
            "spec.rules[0].match.headers[0].name",
            "`name` is missing",
        ),
        (
            with("headers: [{name: ▶'x a', exact: a}]"),
            "spec.rules[0].match.headers[0].name",
            "is no name of a header field",
        ),
        (
            with("headers: [{name: ▶Host, exact: a}]"),
            "spec.rules[0].match.headers[0].name",
            "matched by the route's `hosts`",
        ),
        (
            with("headers: [{name: ▶X-Forwarded-For, present: true}]"),
            "spec.rules[0].match.headers[0].name",
            "says nothing true",
        ),
        (
            with("headers: [{name: ▶connection, present: true}]"),
            "spec.rules[0].match.headers[0].name",
            "goes no further",
        ),
        (
            with("headers: [▶{name: x-a}]"),
            "spec.rules[0].match.headers[0]",
            "write one of exact, prefix, regex or present",
        ),
        (
            with("headers: [▶{name: x-a, exact: a, present: true}]"),
            "spec.rules[0].match.headers[0]",
            "more than one condition",
        ),
        (
            with("headers: [{name: x-a, prefix: ▶''}]"),
            "spec.rules[0].match.headers[0].prefix",
            "write `present: true`",
        ),
        (
            with("headers: [{name: x-a, regex: ▶'['}]"),
            "spec.rules[0].match.headers[0].regex",
            "is no regular expression",
        ),
        (
            with("headers: [{name: x-a, present: true}, ▶{name: X-A, exact: b}]"),
            "spec.rules[0].match.headers[1]",
            "is about `x-a` too",
        ),
        (
            with("query: [▶{name: a}]"),
            "spec.rules[0].match.query[0]",
            "write one of exact, regex or present",
        ),
        (
            with("query: [{name: a, ▶prefix: b}]"),
            "spec.rules[0].match.query[0].prefix",
            "prefix",
        ),
        (
            with("query: [{name: ▶'', present: true}]"),
            "spec.rules[0].match.query[0].name",
            "no parameter's",
        ),
        (
            with("query: [{name: a, present: true}, ▶{name: a, exact: b}]"),
            "spec.rules[0].match.query[1]",
            "is about `a` too",
        ),
        (
            with(&format!(
                "query: ▶[{}]",
                (0..17)
                    .map(|index| format!("{{name: a{index}, present: true}}"))
                    .collect::<Vec<_>>()
                    .join(", ")
            )),
            "spec.rules[0].match.query",
            "at most 16",
        ),
    ]);
}

#[test]
fn a_route_has_a_bounded_number_of_regular_expressions() {
    let open = "require: {anonymous: true}, service: orders";
    let rules = |count: usize| {
        let rules = (0..count).map(|index| {
            let mark = if index == 64 { "▶" } else { "" };
            format!("- {mark}{{{open}, match: {{path: {{regex: /a{index}}}}}}}")
        });
        rule(&rules.collect::<Vec<_>>().join("\n")[2..])
    };
    each_has_one(&[(
        rules(65),
        "spec.rules[64]",
        "at most 64 rules with `match.path.regex`",
    )]);
    assert!(problems(&rules(64)).is_empty());
}

#[test]
fn a_rule_with_a_condition_hides_only_what_has_it_too() {
    let open = "require: {anonymous: true}, service: orders";
    let both = |first: &str, second: &str| {
        rule(&format!(
            "{{{open}, match: {{{first}}}}}\n- ▶{{{open}, match: {{{second}}}}}"
        ))
    };
    let canary = "headers: [{name: x-canary, exact: b}]";
    let never = |first: &str, second: &str| (both(first, second), "spec.rules[1]", "is never reached");
    each_has_one(&[
        never(canary, canary),
        never(canary, &format!("{canary}, query: [{{name: v, present: true}}]")),
        never("path: {prefix: /a}", &format!("path: {{prefix: /a}}, {canary}")),
        never("path: {regex: '/a.*'}", "path: {exact: /ab}"),
        never("path: {regex: '/a.*'}", "path: {regex: '/a.*'}"),
        never("path: {prefix: /}", "path: {regex: '/a.*'}"),
    ]);
    for (first, second) in [
        (canary, "methods: [GET]"),
        (canary, "headers: [{name: x-canary, exact: c}]"),
        ("path: {regex: '/a.*'}", "path: {prefix: /a}"),
        ("path: {prefix: /a}", "path: {regex: '/a/.*'}"),
    ] {
        let found = problems(&both(first, second).replace('▶', ""));
        assert!(found.is_empty(), "{first} {second}: {found:?}");
    }
}

#[test]
fn routes_of_one_host_may_begin_with_different_conditions() {
    let open = "require: {anonymous: true}, service: orders";
    let route = |name: &str, matches: &str| {
        format!(
            "---\napiVersion: enforcer.dev/v1\nkind: Route\nmetadata: {{name: {name}}}\nspec: {{hosts: [a.example.com], rules: [{{{open}, match: {{{matches}}}}}]}}\n"
        )
    };
    let canary = "headers: [{name: x-canary, exact: b}]";
    let service = "apiVersion: enforcer.dev/v1\nkind: Service\nmetadata: {name: orders}\nspec: {endpoints: ['http://10.0.0.7:80']}\n";
    let found = problems(&format!("{service}{}{}", route("a", canary), route("b", "")));
    assert!(found.is_empty(), "{found:?}");
    let found = problems(&format!("{service}{}{}", route("a", canary), route("b", canary)));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].message.contains("begins with the same match"),
        "{}",
        found[0]
    );
}
