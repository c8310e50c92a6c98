//! What is written badly is refused at its place, with a sentence that helps, and all of it at once.
//!
//! `▶` in a table's YAML marks the place that the problem must name; it is taken out before loading.

use std::{fs, path::PathBuf};

use enforcer::policy::{self, Problem, Severity};
use tempfile::TempDir;

const MARK: char = '▶';

/// A document of that kind, named `x`, with that `spec`.
fn document(kind: &str, spec: &str) -> String {
    let head = format!("apiVersion: enforcer.dev/v1\nkind: {kind}\nmetadata: {{name: x}}\nspec:\n");
    spec.lines().fold(head, |text, line| format!("{text}  {line}\n"))
}

fn packet(spec: &str) -> String {
    document("PacketPolicy", &format!("interfaces: [eth0]\n{spec}"))
}

/// A packet policy with one limit of these fields.
fn limit(fields: &str) -> String {
    packet(&format!("limits:\n- {fields}"))
}

const SERVICE: &str = "---\napiVersion: enforcer.dev/v1\nkind: Service\nmetadata: {name: orders}\nspec: {endpoints: ['http://10.0.0.7:80']}\n";

const ISSUER: &str = "---\napiVersion: enforcer.dev/v1\nkind: Issuer\nmetadata: {name: corp}\nspec: {issuer: i, jwks: {url: 'https://i/k'}, audiences: a, algorithms: ES256}\n";

/// A route with one rule of these fields, beside a service `orders` and an issuer `corp`.
fn rule(fields: &str) -> String {
    let route = document("Route", &format!("hosts: [a.example.com]\nrules:\n- {fields}"));
    format!("{route}{SERVICE}{ISSUER}")
}

fn service(spec: &str) -> String {
    document("Service", spec)
}

fn issuer(changed: &str) -> String {
    let mut spec = String::new();
    for (key, line) in [
        ("issuer:", "issuer: https://idp.example.com"),
        ("jwks:", "jwks: {url: 'https://idp.example.com/jwks'}"),
        ("audiences:", "audiences: [a]"),
        ("algorithms:", "algorithms: [ES256]"),
    ] {
        if !changed.contains(key) {
            spec += line;
            spec += "\n";
        }
    }
    document("Issuer", &format!("{spec}{changed}"))
}

/// Every problem of one file with that text.
fn problems(yaml: &str) -> Vec<Problem> {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("policy.yaml");
    fs::write(&file, yaml).unwrap();
    match policy::load(&[file]) {
        Ok(loaded) => loaded.warnings,
        Err(problems) => problems.into_vec(),
    }
}

/// The text without its mark, and the mark's line and column.
fn marked(yaml: &str) -> (String, u64, u64) {
    let at = yaml.find(MARK).expect("the case has no mark");
    let before = &yaml[..at];
    let line = before.matches('\n').count() as u64 + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() as u64 + 1;
    (yaml.replace(MARK, ""), line, column)
}

/// Checks that each text has exactly one problem: at the mark, of that field, with that sentence.
fn each_has_one(cases: &[(String, &str, &str)]) {
    for (yaml, path, fragment) in cases {
        let (yaml, line, column) = marked(yaml);
        let found = problems(&yaml);
        let [problem] = &found[..] else {
            let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
            panic!(
                "{} problems instead of one:\n{yaml}\n{}",
                found.len(),
                shown.join("\n")
            );
        };
        let shown = problem.to_string();
        assert_eq!(
            (problem.line, problem.column),
            (line, column),
            "\n{yaml}\n{shown}"
        );
        assert_eq!(problem.path, *path, "\n{yaml}\n{shown}");
        assert!(shown.contains(fragment), "no `{fragment}` in\n{shown}\n{yaml}");
    }
}

#[test]
fn of_documents() {
    each_has_one(&[
        ("▶kind: Service\nmetadata: {name: a}\nspec: {endpoints: ['http://a:1']}".into(), "apiVersion", "`apiVersion` is missing"),
        ("apiVersion: ▶enforcer.dev/v2\nkind: Service\nmetadata: {name: a}\nspec: {endpoints: ['http://a:1']}".into(), "apiVersion", "did you mean `enforcer.dev/v1`?"),
        ("apiVersion: ▶apps/v1\nkind: Service\nmetadata: {name: a}\nspec: {endpoints: ['http://a:1']}".into(), "apiVersion", "write `apiVersion: enforcer.dev/v1`"),
        ("apiVersion: enforcer.dev/v1\nkind: ▶PacketPolcy\nmetadata: {name: a}\nspec: {}".into(), "kind", "did you mean `PacketPolicy`?"),
        ("▶apiVersion: enforcer.dev/v1\nmetadata: {name: a}\nspec: {}".into(), "kind", "`kind` is missing"),
        ("▶apiVersion: enforcer.dev/v1\nkind: Service\nmetadata: {name: a}".into(), "spec", "`spec` is missing"),
        ("apiVersion: enforcer.dev/v1\nkind: Service\nmetadata: {name: a}\n▶spec: \n".into(), "spec", "expected a mapping, found nothing"),
        ("apiVersion: enforcer.dev/v1\nkind: Service\nmetadata: {name: ▶My_Name}\nspec: {endpoints: ['http://a:1']}".into(), "metadata.name", "is no name"),
        ("apiVersion: enforcer.dev/v1\nkind: Service\nmetadata: ▶{labels: {}}\nspec: {endpoints: ['http://a:1']}".into(), "metadata.name", "`name` is missing"),
        ("apiVersion: enforcer.dev/v1\nkind: Service\nmetadata: {name: ▶12}\nspec: {endpoints: ['http://a:1']}".into(), "metadata.name", "put it in quotes"),
        ("apiVersion: enforcer.dev/v1\nkind: Service\nmetadata: {name: a, ▶lables: {}}\nspec: {endpoints: ['http://a:1']}".into(), "metadata.lables", "did you mean `labels`?"),
        ("▶- a\n- b".into(), "", "expected a mapping, found a list"),
    ]);
}

#[test]
fn of_packet_policies() {
    each_has_one(&[
        (
            document("PacketPolicy", "▶mode: shadow"),
            "spec.interfaces",
            "`interfaces` is missing",
        ),
        (
            document("PacketPolicy", "interfaces: ▶[]"),
            "spec.interfaces",
            "the list is empty",
        ),
        (
            document("PacketPolicy", "interfaces: [eth0, ▶interface-name-too-long]"),
            "spec.interfaces[1]",
            "is no interface name",
        ),
        (packet("▶limit: []"), "spec.limit", "did you mean `limits`?"),
        (
            packet("▶colour: red"),
            "spec.colour",
            "the fields here are mode, interfaces,",
        ),
        (packet("mode: ▶enforced"), "spec.mode", "did you mean `enforce`?"),
        (
            packet("ports: [tcp/443, ▶443]"),
            "spec.ports[1]",
            "put it in quotes",
        ),
        (packet("ports: [▶'443']"), "spec.ports[0]", "has no protocol"),
        (
            packet("ports: [▶tcp/70000]"),
            "spec.ports[0]",
            "`70000` is no port from 1 to 65535",
        ),
        (
            packet("ports: [▶icmp/1]"),
            "spec.ports[0]",
            "`icmp` is no protocol with ports",
        ),
        (
            packet("ports: [tcp/443, ▶tcp/443]"),
            "spec.ports[1]",
            "says the same as `tcp/443` above",
        ),
        (
            packet("allow: [10.0.0.0/8, ▶10.0.0.300/8]"),
            "spec.allow[1]",
            "10.0.0.300/8: octet 300 is above 255",
        ),
        (
            packet("allow: [▶10.1.2.3/8]"),
            "spec.allow[0]",
            "write 10.0.0.0/8 for the network",
        ),
        (
            packet("deny: [▶10.0.0.0/40]"),
            "spec.deny[0]",
            "is not a number from 0 to 32",
        ),
        (
            packet("deny:\n- {cidr: ▶bogus}"),
            "spec.deny[0].cidr",
            "`bogus` is no address",
        ),
        (
            packet("deny:\n- ▶{reason: because}"),
            "spec.deny[0].cidr",
            "`cidr` is missing",
        ),
        (
            packet("deny:\n- {cidr: 192.0.2.0/24, ▶reson: x}"),
            "spec.deny[0].reson",
            "did you mean `reason`?",
        ),
        (
            packet("deny:\n- {cidr: 192.0.2.0/24, until: ▶tomorrow}"),
            "spec.deny[0].until",
            "RFC 3339",
        ),
        (
            packet("allow: [192.0.2.0/24]\ndeny: [▶192.0.2.0/24]"),
            "spec.deny[0]",
            "is denied here and allowed at",
        ),
        (
            packet("deny: [192.0.2.0/24, ▶192.0.2.0/24]"),
            "spec.deny[1]",
            "already: write it once",
        ),
        (
            packet("egress: {deny: [▶300.0.0.0/8]}"),
            "spec.egress.deny[0]",
            "octet 300 is above 255",
        ),
        (
            packet("syn: {cookies: ▶auto}"),
            "spec.syn.cookies",
            "not offered by this version",
        ),
        (
            packet("syn: {cookies: ▶always}"),
            "spec.syn.cookies",
            "write `cookies: off`",
        ),
        (
            packet("verified: ▶{burst: 5}"),
            "spec.verified.rate",
            "`rate` is missing",
        ),
        (
            packet("▶allow: "),
            "spec.allow",
            "write a value, or leave the field out",
        ),
    ]);
}

#[test]
fn of_packet_limits() {
    each_has_one(&[
        (
            limit("{rate: ▶0/s}"),
            "spec.limits[0].rate",
            "zero is never unlimited: leave the limit out",
        ),
        (
            limit("{rate: ▶100}"),
            "spec.limits[0].rate",
            "expected text, found the number `100`",
        ),
        (
            limit("{rate: ▶fast}"),
            "spec.limits[0].rate",
            "write an amount and a period",
        ),
        (
            limit("{rate: ▶10/fortnight}"),
            "spec.limits[0].rate",
            "`fortnight` is no period",
        ),
        (limit("{rate: ▶2G/s}"), "spec.limits[0].rate", "at most 1G/s"),
        (limit("{rate: ▶1/2d}"), "spec.limits[0].rate", "too slow"),
        (
            limit("{rate: ▶10Mbit/s}"),
            "spec.limits[0].rate",
            "write `count: bytes`",
        ),
        (
            limit("{count: bytes, rate: ▶200Gbit/s}"),
            "spec.limits[0].rate",
            "at most 100Gbit/s",
        ),
        (limit("▶{burst: 5}"), "spec.limits[0].rate", "`rate` is missing"),
        (limit("{▶rat: 5/s}"), "spec.limits[0].rat", "did you mean `rate`?"),
        (
            limit("{rate: 5/s, burst: ▶0}"),
            "spec.limits[0].burst",
            "a burst of zero admits nothing",
        ),
        (
            limit("{rate: 5/s, burst: ▶-5}"),
            "spec.limits[0].burst",
            "negative",
        ),
        (
            limit("{rate: 5/s, burst: ▶1.5}"),
            "spec.limits[0].burst",
            "a whole number",
        ),
        (
            limit("{rate: 5/s, burst: ▶5MiB}"),
            "spec.limits[0].burst",
            "unknown unit `MiB`",
        ),
        (
            limit("{rate: 5/s, per: ▶sorce}"),
            "spec.limits[0].per",
            "did you mean `source`?",
        ),
        (
            limit("{rate: 5/s, count: ▶requests}"),
            "spec.limits[0].count",
            "write packets, bytes or connections",
        ),
        (
            limit("{rate: 5/s, algorithm: ▶token_bucket}"),
            "spec.limits[0].algorithm",
            "did you mean `token-bucket`?",
        ),
        (
            limit("{rate: 5/s, algorithm: fixed-window, burst: ▶9}"),
            "spec.limits[0].burst",
            "a window has no burst",
        ),
        (
            limit("{rate: 5/s, prefix: {ipv4: ▶33}}"),
            "spec.limits[0].prefix.ipv4",
            "33 is no prefix length from 1 to 32",
        ),
        (
            limit("{rate: 5/s, prefix: {ipv6: ▶0}}"),
            "spec.limits[0].prefix.ipv6",
            "0 is no prefix length from 1 to 128",
        ),
        (
            limit("{rate: 5/s, prefix: {ipv6: ▶-1}}"),
            "spec.limits[0].prefix.ipv6",
            "expected a whole number",
        ),
        (
            limit("{rate: 5/s, per: interface, prefix: ▶{ipv4: 24}}"),
            "spec.limits[0].prefix",
            "only a limit per source has a prefix",
        ),
        (
            limit("{rate: 5/s, adaptive: {floor: ▶6/s}}"),
            "spec.limits[0].adaptive.floor",
            "above the limit's rate",
        ),
        (
            limit("{name: a, rate: 5/s}\n- ▶{name: a, rate: 6/s}"),
            "spec.limits[1]",
            "is named `a` too",
        ),
        (
            packet("limits: [{rate: 1/s}, {rate: 1/s}, {rate: 1/s}, {rate: 1/s}, ▶{rate: 1/s}]"),
            "spec.limits[4]",
            "a policy has at most 4 limits",
        ),
    ]);
}

#[test]
fn of_services_and_issuers() {
    each_has_one(&[
        (
            service("endpoints: ▶[]"),
            "spec.endpoints",
            "at least one endpoint",
        ),
        (
            service("endpoints: [▶'https://a:1']"),
            "spec.endpoints[0]",
            "TLS to upstreams is not offered by this version",
        ),
        (
            service("endpoints: [▶a]"),
            "spec.endpoints[0]",
            "does not begin with http://",
        ),
        (
            service("endpoints: [▶'http://a']"),
            "spec.endpoints[0]",
            "has no port",
        ),
        (
            service("endpoints: [▶'http://a:1/x']"),
            "spec.endpoints[0]",
            "has a path",
        ),
        (
            service("endpoints: [▶'http://u:p@a:1']"),
            "spec.endpoints[0]",
            "has credentials",
        ),
        (
            service("endpoints: ['http://a:1', ▶'http://a:1/']"),
            "spec.endpoints[1]",
            "is listed above already",
        ),
        (
            service("endpoints: ['http://a:1']\nbalance: ▶random"),
            "spec.balance",
            "least-request or round-robin",
        ),
        (
            service("endpoints: ['http://a:1']\nhealth: ▶{interval: 5s}"),
            "spec.health.path",
            "`path` is missing",
        ),
        (
            service("endpoints: ['http://a:1']\nhealth: {path: /h, interval: ▶5}"),
            "spec.health.interval",
            "expected text, found the number `5`",
        ),
        (
            service("endpoints: ['http://a:1']\nhealth: {path: /h, interval: 1s, timeout: ▶2s}"),
            "spec.health.timeout",
            "longer than the interval",
        ),
        (
            service("endpoints: ['http://a:1']\nhealth: {path: /h, healthyAfter: ▶0}"),
            "spec.health.healthyAfter",
            "write 1 to 100",
        ),
        (
            service("endpoints: ['http://a:1']\nconnectTimeout: ▶5m"),
            "spec.connectTimeout",
            "write 1ms to 1m",
        ),
        (
            issuer("jwks: {url: ▶'http://idp.example.com/jwks'}"),
            "spec.jwks.url",
            "http is for loopback addresses only",
        ),
        (
            issuer("jwks: ▶{refresh: 10m}"),
            "spec.jwks",
            "says not where the keys are",
        ),
        (
            issuer("jwks: ▶{url: 'https://a/', file: a.json}"),
            "spec.jwks",
            "not both",
        ),
        (
            issuer("jwks: {url: 'https://a/', ca: ▶absent.pem}"),
            "spec.jwks.ca",
            "there is no file",
        ),
        (
            issuer("algorithms: [▶HS256]"),
            "spec.algorithms[0]",
            "RFC 8725, 3.1",
        ),
        (
            issuer("algorithms: [▶none]"),
            "spec.algorithms[0]",
            "prove nothing (RFC 8725, 3.1)",
        ),
        (
            issuer("algorithms: [ES256, ▶RS265]"),
            "spec.algorithms[1]",
            "did you mean",
        ),
        (issuer("audiences: ▶[]"), "spec.audiences", "the list is empty"),
        (issuer("leeway: ▶10m"), "spec.leeway", "write 0s to 5m"),
        (issuer("types: [▶'']"), "spec.types[0]", "is no media type"),
    ]);
}

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
            "expected prefix or exact",
        ),
        (
            with("match: {path: ▶/a}"),
            "spec.rules[0].match.path",
            "is not known here",
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
            "expected text, found the number `2`",
        ),
        (
            with("maxBody: ▶64kb"),
            "spec.rules[0].maxBody",
            "unknown unit `kb`",
        ),
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
fn between_documents() {
    let service = |name: &str| {
        format!(
            "apiVersion: enforcer.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{endpoints: ['http://a:1']}}\n"
        )
    };
    let route = |name: &str, host: &str| {
        format!(
            "apiVersion: enforcer.dev/v1\nkind: Route\nmetadata: {{name: {name}}}\nspec: {{hosts: [{host}], rules: [{{service: s, require: {{mtls: {{}}}}}}]}}\n"
        )
    };
    let policy = |name: &str, spec: &str| {
        format!(
            "apiVersion: enforcer.dev/v1\nkind: PacketPolicy\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
        )
    };
    let joined = |documents: [String; 2]| documents.join("---\n");
    each_has_one(&[
        (
            joined([service("s"), service("▶s")]),
            "metadata.name",
            "there is another Service `s` at",
        ),
        (
            format!(
                "{}---\n{}",
                joined([route("a", "h"), route("b", "▶h")]),
                service("s")
            ),
            "spec.hosts[0]",
            "begins with the same path and methods",
        ),
        (
            joined([
                policy("a", "interfaces: [eth0], ports: [tcp/1]"),
                policy("b", "interfaces: [eth0], ports: [tcp/2, ▶tcp/1]"),
            ]),
            "spec.ports[1]",
            "this port of eth0 belongs to the policy at",
        ),
        (
            joined([
                policy("a", "interfaces: [eth0]"),
                policy("b", "interfaces: ▶[eth0]"),
            ]),
            "spec.interfaces",
            "is about all traffic of eth0, as is the policy at",
        ),
    ]);
}

#[test]
fn what_is_no_yaml_is_said_with_its_place() {
    for (yaml, fragment) in [
        ("a: [1, 2\nb: 3", "this is no YAML"),
        ("a: 1\na: 2", "this is no YAML"),
        ("a: *nowhere", "this is no YAML"),
    ] {
        let found = problems(yaml);
        assert_eq!(found.len(), 1, "{yaml}: {found:?}");
        assert!(found[0].line > 0 && found[0].column > 0, "{yaml}: {found:?}");
        assert!(found[0].message.contains(fragment), "{yaml}: {found:?}");
    }
}

#[test]
fn four_mistakes_in_one_document_are_four_problems_in_one_run() {
    let yaml = "
apiVersion: enforcer.dev/v1
kind: PacketPolicy
metadata: {name: edge}
spec:
  interfaces: [eth0]
  allow: [10.0.0.300/8]
  limits:
    - rate: 0/s
      bursts: 5
---
apiVersion: enforcer.dev/v1
kind: Service
metadata: {name: orders}
spec: {endpoints: ['http://a:1']}
---
apiVersion: enforcer.dev/v1
kind: Route
metadata: {name: orders}
spec:
  hosts: [a.example.com]
  rules:
    - servce: orders
      require: {anonymous: true}
    - service: order
      require: {mtls: {spiffe: ['spiffe://A/b']}, token: {}}
      timeout: 1 fortnight
      limits:
        - {per: token.sub, rate: 1/y}
";
    let found: Vec<(u64, u64, String)> = problems(yaml)
        .into_iter()
        .map(|problem| (problem.line, problem.column, problem.path))
        .collect();
    let expected = [
        (7, 11, "spec.allow[0]"),
        (9, 13, "spec.limits[0].rate"),
        (10, 7, "spec.limits[0].bursts"),
        (23, 7, "spec.rules[0].servce"),
        (25, 16, "spec.rules[1].service"),
        (26, 33, "spec.rules[1].require.mtls.spiffe[0]"),
        (26, 58, "spec.rules[1].require.token.issuer"),
        (27, 16, "spec.rules[1].timeout"),
        (29, 34, "spec.rules[1].limits[0].rate"),
    ]
    .map(|(line, column, path)| (line, column, path.to_owned()));
    assert_eq!(found, expected);
}

#[test]
fn problems_of_all_files_come_together_in_order() {
    let directory = TempDir::new().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write("a.yaml", &packet("modes: shadow\nports: [x]"));
    write("b.yaml", "[");
    write("c.yaml", &service("endpoints: [x]"));
    let missing = directory.path().join("missing.yaml");
    let problems = policy::load(&[directory.path().to_owned(), missing.clone()]).unwrap_err();
    let files: Vec<PathBuf> = problems
        .into_iter()
        .map(|problem| problem.file.strip_prefix(directory.path()).unwrap().to_owned())
        .collect();
    assert_eq!(
        files,
        ["a.yaml", "a.yaml", "b.yaml", "c.yaml", "missing.yaml"].map(PathBuf::from)
    );
}

#[test]
fn a_broken_service_is_no_reason_to_blame_its_routes() {
    let yaml = rule("{service: orders, require: {mtls: {}}}").replace("'http://10.0.0.7:80'", "nonsense");
    let found = problems(&yaml);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].path, "spec.endpoints[0]");
}

#[test]
fn warnings_do_not_hinder() {
    let found = problems(&rule("{service: orders}"));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].severity, Severity::Warning);
}

#[test]
fn what_is_too_large_is_refused_quickly() {
    let directory = TempDir::new().unwrap();
    let large = directory.path().join("large.yaml");
    fs::write(&large, "#".repeat((1 << 20) + 1)).unwrap();
    let problems = policy::load(&[large]).unwrap_err();
    assert!(
        problems.to_string().contains("is larger than 1024 KiB"),
        "{problems}"
    );
}

#[test]
fn bombs_of_aliases_nesting_and_documents_do_not_explode() {
    let mut aliases = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let inner = vec![format!("*a{}", level - 1); 9].join(", ");
        aliases += &format!("a{level}: &a{level} [{inner}]\n");
    }
    let nested = "[".repeat(100_000);
    let documents = "a: 1\n---\n".repeat(10_001);
    for (name, bomb) in [
        ("aliases", aliases),
        ("nesting", nested),
        ("documents", documents),
    ] {
        let started = std::time::Instant::now();
        let found = problems(&bomb);
        assert_eq!(found.len(), 1, "{name}");
        assert!(
            found[0].message.contains("this is no YAML"),
            "{name}: {}",
            found[0]
        );
        assert!(started.elapsed().as_secs() < 10, "{name}");
    }
}

#[test]
fn a_flood_of_problems_is_counted_not_kept() {
    let broken = format!("{}---\n", service("endpoints: [x]"));
    let found = problems(&broken.repeat(2000));
    assert_eq!(found.len(), policy::problem::MAX_PROBLEMS + 1);
    assert!(
        found
            .last()
            .unwrap()
            .message
            .contains("more problems are not shown")
    );
}

#[test]
fn no_text_panics() {
    use proptest::prelude::*;
    let sample = rule(
        "{service: orders, require: {token: {issuer: corp}}, limits: [{per: token.sub, rate: 1/s, exceed: {queue: 1s}}]}",
    );
    let cut = (0..sample.len(), 0..sample.len(), "[\\[\\]{}:,&*!|>'\"\\n -]{0,4}");
    let mut runner = proptest::test_runner::TestRunner::default();
    runner
        .run(&cut, |(from, to, put)| {
            let (from, to) = (from.min(to), from.max(to));
            let text = format!("{}{put}{}", &sample[..from], &sample[to..]);
            for problem in problems(&text) {
                prop_assert!(!problem.message.is_empty());
            }
            Ok(())
        })
        .unwrap();
}
