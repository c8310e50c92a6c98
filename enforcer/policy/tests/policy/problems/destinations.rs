//! Where requests go, and what is changed on the way.

use crate::problems::table::{each_has_one, problems, rule};

fn with(fields: &str) -> String {
    rule(&format!("{{require: {{anonymous: true}}, {fields}}}"))
}

fn to_service(fields: &str) -> String {
    with(&format!("service: orders, {fields}"))
}

#[test]
fn of_rewrites() {
    let path = "spec.rules[0].rewrite.path";
    let at = |key: &'static str| match key {
        "replacePrefix" => "spec.rules[0].rewrite.path.replacePrefix",
        "replace" => "spec.rules[0].rewrite.path.replace",
        "with" => "spec.rules[0].rewrite.path.with",
        _ => "spec.rules[0].rewrite.path.regex",
    };
    each_has_one(&[
        (
            to_service("rewrite: ▶{}"),
            "spec.rules[0].rewrite",
            "nothing is rewritten",
        ),
        (to_service("rewrite: {path: ▶{}}"), path, "says no path"),
        (
            to_service("rewrite: {path: ▶{replace: /a, replacePrefix: /b}}"),
            path,
            "more than one path",
        ),
        (
            to_service("rewrite: {path: ▶{regex: a}}"),
            path,
            "belong together",
        ),
        (
            to_service("rewrite: {path: ▶{replace: /a, with: /b}}"),
            path,
            "belong together",
        ),
        (
            to_service("rewrite: {path: {replace: ▶a}}"),
            at("replace"),
            "does not begin with /",
        ),
        (
            to_service("rewrite: {path: {replace: ▶'/a?b'}}"),
            at("replace"),
            "more than a path",
        ),
        (
            to_service("rewrite: {path: {replace: ▶'/a;b'}}"),
            at("replace"),
            "normal form",
        ),
        (
            to_service("rewrite: {path: {replace: ▶'/%61'}}"),
            at("replace"),
            "normal form",
        ),
        (
            to_service("rewrite: {path: {replacePrefix: ▶/a/../b}}"),
            at("replacePrefix"),
            "would never match",
        ),
        (
            to_service("match: {path: {exact: /a}}, rewrite: {path: {replacePrefix: ▶/b}}"),
            at("replacePrefix"),
            "the rule's path is no prefix",
        ),
        (
            to_service("rewrite: {path: {regex: ▶'(', with: /a}}"),
            at("regex"),
            "unclosed group",
        ),
        (
            to_service("rewrite: {path: {regex: '/(.*)', with: ▶'$1'}}"),
            at("with"),
            "does not begin with /",
        ),
        (
            to_service("rewrite: {path: {regex: '/(.*)', with: ▶'/$2'}}"),
            at("with"),
            "names the group 2",
        ),
        (
            to_service("rewrite: {path: {regex: '/(.*)', with: ▶'/$a'}}"),
            at("with"),
            "write $$",
        ),
        (
            to_service("rewrite: {path: {regex: '/(.*)', with: ▶'/../$1'}}"),
            at("with"),
            "normal form",
        ),
        (
            to_service("rewrite: {host: ▶'http://a'}"),
            "spec.rules[0].rewrite.host",
            "is no host",
        ),
    ]);
}

#[test]
fn of_header_changes() {
    each_has_one(&[
        (
            to_service("requestHeaders: {set: {X-Forwarded-For: ▶a}}"),
            "spec.rules[0].requestHeaders.set.X-Forwarded-For",
            "services learn who asks",
        ),
        (
            to_service("requestHeaders: {add: {x_enforcer_identity: ▶a}}"),
            "spec.rules[0].requestHeaders.add.x_enforcer_identity",
            "services learn who asks",
        ),
        (
            to_service("requestHeaders: {remove: [▶host]}"),
            "spec.rules[0].requestHeaders.remove[0]",
            "rewrite: {host: …}",
        ),
        (
            to_service("requestHeaders: {remove: [▶transfer-encoding]}"),
            "spec.rules[0].requestHeaders.remove[0]",
            "the gateway's own",
        ),
        (
            to_service("responseHeaders: {set: {content-length: ▶'1'}}"),
            "spec.rules[0].responseHeaders.set.content-length",
            "the gateway's own",
        ),
        (
            to_service("responseHeaders: {set: {'a b': ▶x}}"),
            "spec.rules[0].responseHeaders.set.a b",
            "no name of a header field",
        ),
        (
            to_service("responseHeaders: {set: {a: ▶\"x\\ny\"}}"),
            "spec.rules[0].responseHeaders.set.a",
            "one line",
        ),
        (
            to_service("responseHeaders: {set: {A: x, a: ▶y}}"),
            "spec.rules[0].responseHeaders.set.a",
            "case makes no difference",
        ),
        (
            to_service("responseHeaders: {remove: [server, ▶Server]}"),
            "spec.rules[0].responseHeaders.remove[1]",
            "says the same",
        ),
        (
            to_service("responseHeaders: {▶delete: [a]}"),
            "spec.rules[0].responseHeaders.delete",
            "delete",
        ),
    ]);
}

#[test]
fn of_redirects() {
    each_has_one(&[
        (
            with("redirect: ▶{}"),
            "spec.rules[0].redirect",
            "where it has come from",
        ),
        (
            with("redirect: ▶{status: 301}"),
            "spec.rules[0].redirect",
            "where it has come from",
        ),
        (
            with("redirect: {path: {replace: /a}, status: ▶304}"),
            "spec.rules[0].redirect.status",
            "write 301, 302, 303, 307 or 308",
        ),
        (
            with("redirect: {port: ▶0}"),
            "spec.rules[0].redirect.port",
            "1 to 65535",
        ),
        (
            with("redirect: {host: ▶'a/b'}"),
            "spec.rules[0].redirect.host",
            "is no host",
        ),
        (
            with("redirect: {host: ▶'a:80'}"),
            "spec.rules[0].redirect.host",
            "write `port`",
        ),
        (
            with("redirect: {scheme: ▶ftp}"),
            "spec.rules[0].redirect.scheme",
            "http",
        ),
        (
            with("redirect: ▶{scheme: https}").replace("[a.example.com]", "['*']"),
            "spec.rules[0].redirect",
            "write `host`",
        ),
        (
            with("service: ▶orders, redirect: {scheme: https}"),
            "spec.rules[0].service",
            "leave out `service`",
        ),
        (
            with("redirect: {scheme: https}, limits: ▶[{per: service, rate: 1/s}]"),
            "spec.rules[0].limits",
            "write `per: rule`",
        ),
        (
            with("redirect: {scheme: https}, upgrade: ▶websocket"),
            "spec.rules[0].upgrade",
            "leave out `upgrade`",
        ),
    ]);
    let found = problems(&with("redirect: {path: {replace: /a}}").replace("[a.example.com]", "['*']"));
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn of_services() {
    let many: Vec<String> = (0..17).map(|_| "{service: orders}".to_owned()).collect();
    each_has_one(&[
        (
            with("services: ▶[]"),
            "spec.rules[0].services",
            "1 to 16 services",
        ),
        (
            with(&format!("services: ▶[{}]", many.join(", "))),
            "spec.rules[0].services",
            "here are 17",
        ),
        (
            with("service: orders, services: ▶[{service: orders}]"),
            "spec.rules[0].services",
            "one of the two",
        ),
        (
            with("services: [{service: ▶order}]"),
            "spec.rules[0].services[0].service",
            "did you mean `orders`?",
        ),
        (
            with("services: [{service: orders}, ▶{service: orders}]"),
            "spec.rules[0].services[1]",
            "join the two",
        ),
        (
            with("services: ▶[{service: orders, weight: 0}]"),
            "spec.rules[0].services",
            "other than 0",
        ),
        (
            with("services: [{service: orders, weight: ▶1000001}]"),
            "spec.rules[0].services[0].weight",
            "write 0 to 1000000",
        ),
        (
            with("services: [▶{weight: 1}]"),
            "spec.rules[0].services[0].service",
            "`service` is missing",
        ),
    ]);
}

#[test]
fn of_mirrors() {
    each_has_one(&[
        (
            to_service("mirror: {service: ▶order}"),
            "spec.rules[0].mirror.service",
            "did you mean `orders`?",
        ),
        (
            to_service("mirror: ▶{percent: 5}"),
            "spec.rules[0].mirror.service",
            "`service` is missing",
        ),
        (
            to_service("mirror: {service: orders, percent: ▶0}"),
            "spec.rules[0].mirror.percent",
            "write 1 to 100",
        ),
        (
            to_service("mirror: {service: orders, percent: ▶101}"),
            "spec.rules[0].mirror.percent",
            "write 1 to 100",
        ),
        (
            to_service("mirror: ▶{service: orders}, upgrade: websocket"),
            "spec.rules[0].mirror",
            "leave out `mirror`",
        ),
    ]);
}
