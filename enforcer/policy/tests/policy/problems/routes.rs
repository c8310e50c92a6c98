//! Routes and their rules.

use crate::problems::table::{document, each_has_one, problems, rule};

#[test]
fn of_routes() {
    let open = "require: {anonymous: true}, service: orders";
    let with = |fields: &str| rule(&format!("{{{open}, {fields}}}"));
    each_has_one(&[
        (rule("▶{service: orders}"), "spec.rules[0]", "admits nobody"),
        (
            rule("{service: orders, require: ▶{}}"),
            "spec.rules[0].require",
            "admits nobody",
        ),
        (
            rule("{service: orders, require: {anonymous: ▶true, mtls: {}}}"),
            "spec.rules[0].require.anonymous",
            "cannot both admit everybody and ask for a proof",
        ),
        (
            rule("{service: orders, require: {▶mtls: }}"),
            "spec.rules[0].require.mtls",
            "write a value, or leave the field out",
        ),
        (
            rule("{service: orders, require: {mtls: {spiffe: [▶'https://a']}}}"),
            "spec.rules[0].require.mtls.spiffe[0]",
            "is no SPIFFE identity",
        ),
        (
            rule("{service: orders, require: {mtls: {spiffe: ▶[]}}}"),
            "spec.rules[0].require.mtls.spiffe",
            "the list is empty",
        ),
        (
            rule("{service: orders, require: {token: {issuer: ▶crop}}}"),
            "spec.rules[0].require.token.issuer",
            "did you mean `corp`?",
        ),
        (
            rule("{service: orders, require: {token: ▶{scopes: a}}}"),
            "spec.rules[0].require.token.issuer",
            "`issuer` is missing",
        ),
        (
            rule("{service: orders, require: {token: {issuer: corp, scopes: [▶'a b']}}}"),
            "spec.rules[0].require.token.scopes[0]",
            "is several scopes",
        ),
        (
            rule("{require: {anonymous: true}, service: ▶ordres}"),
            "spec.rules[0].service",
            "did you mean `orders`?",
        ),
        (
            rule("▶{require: {anonymous: true}}"),
            "spec.rules[0].service",
            "`service` is missing",
        ),
        (
            with("match: {path: {prefix: ▶v1}}"),
            "spec.rules[0].match.path.prefix",
            "does not begin with /",
        ),
        (
            with("match: {path: {exact: ▶/a/../b}}"),
            "spec.rules[0].match.path.exact",
            "would never match",
        ),
        (
            with("match: {path: ▶{prefix: /a, exact: /a}}"),
            "spec.rules[0].match.path",
            "expected prefix, exact or regex",
        ),
        (
            with("match: {path: ▶/a}"),
            "spec.rules[0].match.path",
            "write `{exact: /a}` for this path alone, or `{prefix: /a}`",
        ),
        (
            with("match: {methods: [▶get]}"),
            "spec.rules[0].match.methods[0]",
            "write GET",
        ),
        (
            with("match: {methods: ▶[]}"),
            "spec.rules[0].match.methods",
            "the list is empty",
        ),
        (
            with("timeout: ▶2"),
            "spec.rules[0].timeout",
            "expected a duration like 200ms, 10s or 1m30s, found the number `2`",
        ),
        (
            with("maxBody: ▶64kb"),
            "spec.rules[0].maxBody",
            "unknown unit `kb`",
        ),
        (
            with("priority: ▶urgent"),
            "spec.rules[0].priority",
            "low, normal or high",
        ),
        (with("upgrade: [▶h2c]"), "spec.rules[0].upgrade[0]", "websocket"),
        (with("upgrade: ▶[]"), "spec.rules[0].upgrade", "the list is empty"),
        (
            with("upgrade: [websocket, ▶websocket]"),
            "spec.rules[0].upgrade[1]",
            "named above already",
        ),
        (
            with("upgrade: ▶websocket").replace("{endpoints:", "{protocol: http2, endpoints:"),
            "spec.rules[0].upgrade",
            "is not asked to switch",
        ),
        (with("idle: ▶25h"), "spec.rules[0].idle", "write 1ms to"),
        (
            with("limits: [▶{rate: 1/s}]"),
            "spec.rules[0].limits[0].per",
            "`per` is missing",
        ),
        (
            with("limits: [{rate: 1/s, per: ▶token.sub}]"),
            "spec.rules[0].limits[0].per",
            "the rule requires none",
        ),
        (
            with("limits: [{rate: 1/s, per: [source, ▶certificate]}]"),
            "spec.rules[0].limits[0].per[1]",
            "write `require: {mtls: {}}`",
        ),
        (
            with("limits: [{rate: 1/s, per: [source, ▶source]}]"),
            "spec.rules[0].limits[0].per[1]",
            "named above already",
        ),
        (
            with("limits: [{rate: ▶1MB/s, per: source}]"),
            "spec.rules[0].limits[0].rate",
            "requests are counted",
        ),
        (
            with("limits: [{rate: 1/s, per: source, exceed: {queue: ▶6s}}]"),
            "spec.rules[0].limits[0].exceed.queue",
            "write 1ms to 5s",
        ),
        (
            with("limits: [{rate: 1/s, per: source, exceed: ▶queue}]"),
            "spec.rules[0].limits[0].exceed",
            "`queue` needs a value",
        ),
        (
            with("limits: [{name: a, rate: 1/s, per: rule}, ▶{name: a, rate: 2/s, per: rule}]"),
            "spec.rules[0].limits[1]",
            "is named `a` too",
        ),
        (
            with("limits: [{rate: 1/s, per: {prefix: {ipv4: ▶33}}}]"),
            "spec.rules[0].limits[0].per.prefix.ipv4",
            "1 to 32",
        ),
        (
            with("limits: [{rate: 1/s, per: {header: ▶x team}}]"),
            "spec.rules[0].limits[0].per.header",
            "is no name of a header field",
        ),
        (
            with("limits: [{rate: 1/s, per: [▶{cookie: x}]}]"),
            "spec.rules[0].limits[0].per[0]",
            "`cookie` is not known here",
        ),
        (
            with("limits: [{rate: 1/s, per: ▶route}]"),
            "spec.rules[0].limits[0].per",
            "a limit of a rule is that rule's",
        ),
        (
            with("limits: [▶{rate: 5/s, cost: 6, per: source}]"),
            "spec.rules[0].limits[0]",
            "at most 5 may come at once: none is ever admitted",
        ),
        (
            with("limits: [{rate: 5/s, cost: ▶0, per: source}]"),
            "spec.rules[0].limits[0].cost",
            "zero",
        ),
        (
            with("limits: [{rate: 5MiB/s, count: response-bytes, cost: ▶5, per: source}]"),
            "spec.rules[0].limits[0].cost",
            "bytes of the response are counted",
        ),
        (
            with("limits: [{rate: ▶5/s, count: response-bytes, per: source}]"),
            "spec.rules[0].limits[0].rate",
            "is no rate of bytes",
        ),
        (
            with("limits: [{rate: 5/s, per: source, tiers: {gold: ▶{burst: 5}}}]"),
            "spec.rules[0].limits[0].tiers.gold.rate",
            "`rate` is missing",
        ),
        (
            with("limits: [{rate: 5/s, per: source, tiers: {Gold!: ▶{rate: 5/s}}}]"),
            "spec.rules[0].limits[0].tiers.Gold!",
            "",
        ),
        (
            rule(&format!("{{{open}}}")).replace("  rules:", "  limits: [{rate: 1/s, per: ▶rule}]\n  rules:"),
            "spec.limits[0].per",
            "write `per: route`",
        ),
        (
            rule(&format!("{{{open}}}")).replace("[a.example.com]", "[▶'http://a']"),
            "spec.hosts[0]",
            "is more than a host",
        ),
        (
            document("Route", "hosts: [a]\nrules: ▶[]"),
            "spec.rules",
            "at least one rule",
        ),
    ]);
}

#[test]
fn rules_that_are_never_reached_are_warned_of() {
    let open = "require: {anonymous: true}, service: orders";
    let both = |first: &str, second: &str| {
        rule(&format!(
            "{{{open}, match: {{{first}}}}}\n- ▶{{{open}, match: {{{second}}}}}"
        ))
    };
    let never = |first: &str, second: &str| (both(first, second), "spec.rules[1]", "is never reached");
    each_has_one(&[
        never("methods: [GET]", "methods: [GET]"),
        never("path: {prefix: /a}", "path: {prefix: /a/b}, methods: [GET]"),
        never(
            "path: {prefix: /a}, methods: [GET, PUT]",
            "path: {exact: /a}, methods: [PUT]",
        ),
        never("path: {exact: /a}", "path: {exact: /a}"),
    ]);
    for (first, second) in [
        ("methods: [GET]", "methods: [GET, PUT]"),
        ("methods: [GET]", "path: {prefix: /a}"),
        ("path: {prefix: /a}", "path: {prefix: /ab}"),
        ("path: {exact: /a}", "path: {prefix: /a}"),
    ] {
        let found = problems(&both(first, second).replace('▶', ""));
        assert!(found.is_empty(), "{first} {second}: {found:?}");
    }
}

/// A route that passes TLS through, with these hosts and rules, and one that does not.
fn passing(hosts: &str, rules: &str) -> String {
    let db = document(
        "Route",
        &format!("hosts: [{hosts}]\npassthrough: {{}}\nrules: [{rules}]"),
    )
    .replace("{name: x}", "{name: db}");
    format!(
        "{}---\n{db}",
        rule("{require: {anonymous: true}, service: orders}")
    )
}

#[test]
fn of_routes_that_pass_tls_through() {
    let open = "{require: {anonymous: true}, service: orders}";
    let with = |fields: &str| {
        let rule = format!("{{require: {{anonymous: true}}, service: orders, {fields}}}");
        passing("db.example.com", &rule)
    };
    each_has_one(&[
        (passing("▶'*'", open), "spec.hosts[0]", "name the hosts"),
        (passing("▶192.0.2.1", open), "spec.hosts[0]", "write names"),
        (passing("▶'[2001:db8::1]'", open), "spec.hosts[0]", "write names"),
        (
            passing("db.example.com", "{service: orders, require: {▶mtls: {}}}")
                .replace("▶mtls: {}", "mtls: ▶{}"),
            "spec.rules[0].require.mtls",
            "only the service sees proofs",
        ),
        (
            passing("db.example.com", "▶{service: orders}"),
            "spec.rules[0]",
            "admits nobody",
        ),
        (
            with("match: ▶{path: {prefix: /a}}"),
            "spec.rules[0].match",
            "what is in it is not read",
        ),
        (
            with("maxBody: ▶1MiB"),
            "spec.rules[0].maxBody",
            "leave `maxBody` out",
        ),
        (
            with("limits: ▶[{per: {header: x-team}, rate: 1/s}]"),
            "spec.rules[0].limits",
            "can be counted by source",
        ),
        (
            with("limits: ▶[{per: source, count: response-bytes, rate: 1MB/s}]"),
            "spec.rules[0].limits",
            "can be counted by source",
        ),
        (
            passing("db.example.com", open).replace("passthrough: {}", "passthrough: {proxyProtocol: ▶v1}"),
            "spec.passthrough.proxyProtocol",
            "v2",
        ),
        (
            passing("db.example.com", open).replace("passthrough: {}", "▶passthrough:"),
            "spec.passthrough",
            "write a value",
        ),
        (
            passing("a.example.com", open).replacen("hosts: [a.example.com]", "hosts: [▶a.example.com]", 1),
            "spec.hosts[0]",
            "the route `db` passes TLS for `a.example.com` through",
        ),
        (
            passing(
                "db.example.com",
                &format!("{open}, ▶{{require: {{anonymous: true}}, service: orders, match: {{}}}}"),
            )
            .replace(", match: {}", ""),
            "spec.rules[1]",
            "has one rule",
        ),
    ]);
}

#[test]
fn of_rules_for_connect() {
    let with = |fields: &str| {
        rule(&format!(
            "{{require: {{anonymous: true}}, service: orders, {fields}}}"
        ))
    };
    each_has_one(&[
        (
            with("upgrade: connect, match: {path: ▶{prefix: /a}}"),
            "spec.rules[0].match.path",
            "leave out `path`",
        ),
        (
            with("upgrade: connect, match: {methods: ▶GET}"),
            "spec.rules[0].match.methods",
            "leave out `methods`",
        ),
        (
            with("upgrade: ▶[connect, websocket]"),
            "spec.rules[0].upgrade",
            "for no other method",
        ),
        (
            with("match: {methods: ▶CONNECT}"),
            "spec.rules[0].match.methods",
            "says `upgrade: connect` instead",
        ),
    ]);
    // A rule for any method leaves this one its own.
    let both = "{require: {anonymous: true}, service: orders}\n- {require: {anonymous: true}, service: orders, upgrade: connect}";
    assert_eq!(problems(&rule(both)).len(), 0);
    // Services of HTTP/2 are not asked to switch, and get bytes all the same.
    let http2 = with("upgrade: connect").replace("{endpoints:", "{protocol: http2, endpoints:");
    assert_eq!(problems(&http2).len(), 0);
}
