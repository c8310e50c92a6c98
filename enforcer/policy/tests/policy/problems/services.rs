//! Services and issuers.

use crate::problems::table::{document, each_has_one, issuer, service};

#[test]
fn of_services_and_issuers() {
    each_has_one(&[
        (
            service("endpoints: ▶[]"),
            "spec.endpoints",
            "at least one endpoint",
        ),
        (
            service("endpoints: [▶'https://a..b:1']"),
            "spec.endpoints[0]",
            "is no name of a server",
        ),
        (
            service("endpoints: ['http://a:1']\ntls: ▶{serverName: b}"),
            "spec.tls",
            "is about https endpoints",
        ),
        (
            service("endpoints: ['https://a:1']\ntls: {ca: ▶absent.pem}"),
            "spec.tls.ca",
            "there is no file",
        ),
        (
            service("endpoints: ['https://a:1']\ntls: ▶{key: policy.yaml}"),
            "spec.tls",
            "are given together",
        ),
        (
            service("endpoints: ['https://a:1']\ntls: ▶{ca: policy.yaml}"),
            "spec.tls",
            "holds no certificate",
        ),
        (
            service("endpoints: ['https://a:1']\ntls: {spiffe: ▶x}"),
            "spec.tls.spiffe",
            "is no SPIFFE identity",
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
            "least-request, round-robin, p2c",
        ),
        (
            service("endpoints: ['http://a:1']\nlimits: {requests: 10, adaptive: {floor: ▶11}}"),
            "spec.limits.adaptive.floor",
            "1 to 10",
        ),
        (
            service("endpoints: ['http://a:1']\nlimits: {adaptive: ▶{}}"),
            "spec.limits.adaptive.floor",
            "`floor` is missing",
        ),
        (
            service("endpoints: ['http://a:1']\nbalance: {maglev: {header: ▶'x y'}}"),
            "spec.balance.maglev.header",
            "no name of a header field",
        ),
        (
            service("endpoints: ['http://a:1']\nbalance: {ring-hash: {cookie: ▶'a=b'}}"),
            "spec.balance.ring-hash.cookie",
            "is no name",
        ),
        (
            service("endpoints: [{url: 'http://a:1', weight: ▶0}]"),
            "spec.endpoints[0].weight",
            "write 1 to 1000",
        ),
        (
            service("endpoints: [{url: 'http://a:1', zone: ▶'a b'}]"),
            "spec.endpoints[0].zone",
            "is no zone",
        ),
        (
            service("endpoints: [▶{weight: 2}]"),
            "spec.endpoints[0].url",
            "`url` is missing",
        ),
        (
            service("endpoints: ['http://a:1', {url: ▶'http://a:1'}]"),
            "spec.endpoints[1].url",
            "is listed above already",
        ),
        (
            service("endpoints: ['http://a:1']\nlimits: {connections: ▶0}"),
            "spec.limits.connections",
            "write 1 to 1000000",
        ),
        (
            service("endpoints: ['http://a:1']\nretries: {attempts: ▶11}"),
            "spec.retries.attempts",
            "write 0 to 10",
        ),
        (
            service("endpoints: ['http://a:1']\nretries: {on: [reset, 503, ▶500]}"),
            "spec.retries.on[2]",
            "write some of reset, 502, 503, 504",
        ),
        (
            service("endpoints: ['http://a:1']\nretries: {on: [▶connect]}"),
            "spec.retries.on[0]",
            "is always followed by another",
        ),
        (
            service("endpoints: ['http://a:1']\nretries: {backoff: 1s, maxBackoff: ▶1ms}"),
            "spec.retries.maxBackoff",
            "shorter than `backoff`",
        ),
        (
            service("endpoints: ['http://a:1']\nretries: {budget: {percent: ▶101}}"),
            "spec.retries.budget.percent",
            "write 0 to 100",
        ),
        (
            service("endpoints: ['http://a:1']\noutliers: {consecutive5xx: ▶0}"),
            "spec.outliers.consecutive5xx",
            "write 1 to 1000",
        ),
        (
            service("endpoints: ['http://a:1']\noutliers: {baseEjection: 1m, maxEjection: ▶1s}"),
            "spec.outliers.maxEjection",
            "shorter than `baseEjection`",
        ),
        (
            service("endpoints: ['http://a:1']\noutliers: {successRate: ▶{requests: 5}}"),
            "spec.outliers.successRate.below",
            "`below` is missing",
        ),
        (
            service("endpoints: ['http://a:1']\nslowStart: ▶1ms"),
            "spec.slowStart",
            "write 1s to 1h",
        ),
        (
            service("endpoints: ['http://a:1']\npanicPercent: ▶101"),
            "spec.panicPercent",
            "write 0 to 100",
        ),
        (
            service("endpoints: ['http://a:1']\nhealth: ▶{interval: 5s}"),
            "spec.health.path",
            "`path` is missing",
        ),
        (
            service("endpoints: ['http://a:1']\nhealth: {path: /h, interval: ▶5}"),
            "spec.health.interval",
            "expected a duration like 200ms, 10s or 1m30s, found the number `5`",
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
            service("endpoints: ['http://a:1']\nprotocol: ▶h2c"),
            "spec.protocol",
            "http1 or http2",
        ),
        (
            service("endpoints: ['http://a:1']\nprotocol: http2\nhealth: ▶{path: /h}"),
            "spec.health",
            "health checks speak HTTP/1.1",
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
        (
            issuer("introspection: ▶{url: 'https://a/', clientId: a, clientSecretFile: policy.yaml}"),
            "spec.introspection",
            "not by both",
        ),
        (
            introspecting("algorithms: ▶[ES256]"),
            "spec.algorithms",
            "leave `algorithms` out",
        ),
        (introspecting("types: ▶[jwt]"), "spec.types", "leave `types` out"),
        (
            introspecting("profile: ▶rfc9068"),
            "spec.profile",
            "leave `profile` out",
        ),
        (
            introspection("▶{clientId: a, clientSecretFile: policy.yaml}"),
            "spec.introspection.url",
            "`url` is missing",
        ),
        (
            introspection("{url: ▶'http://idp.example.com/', clientId: a, clientSecretFile: policy.yaml}"),
            "spec.introspection.url",
            "http is for loopback addresses only",
        ),
        (
            introspection("{url: 'https://a/', clientId: ▶'a b', clientSecretFile: policy.yaml}"),
            "spec.introspection.clientId",
            "without spaces",
        ),
        (
            introspection("{url: 'https://a/', clientId: a, clientSecretFile: ▶absent}"),
            "spec.introspection.clientSecretFile",
            "there is no file",
        ),
        (
            introspection("{url: 'https://a/', clientId: a, clientSecretFile: policy.yaml, cache: ▶0s}"),
            "spec.introspection.cache",
            "write 1s to 1h",
        ),
        (
            introspection(
                "{url: 'https://a/', clientId: a, clientSecretFile: policy.yaml, negativeCache: ▶2m}",
            ),
            "spec.introspection.negativeCache",
            "write 1s to 1m",
        ),
        (
            introspection("{url: 'https://a/', clientId: a, clientSecretFile: policy.yaml, timeout: ▶1m}"),
            "spec.introspection.timeout",
            "write 100ms to 10s",
        ),
        (
            introspection("{url: 'https://a/', clientId: a, clientSecretFile: policy.yaml, rate: ▶1MB/s}"),
            "spec.introspection.rate",
            "write one like 20/s",
        ),
        (
            introspection("{url: 'https://a/', clientId: a, clientSecretFile: policy.yaml, pattern: ▶'a('}"),
            "spec.introspection.pattern",
            "regular expression",
        ),
        (issuer("audiences: ▶[]"), "spec.audiences", "the list is empty"),
        (issuer("leeway: ▶10m"), "spec.leeway", "write 0s to 5m"),
        (issuer("types: [▶'']"), "spec.types[0]", "is no media type"),
        (
            issuer("profile: rfc9068\ntypes: ▶[jwt]"),
            "spec.types",
            "`at+jwt` alone",
        ),
        (
            issuer("dpop: {maxAge: ▶1h}"),
            "spec.dpop.maxAge",
            "write 1s to 10m",
        ),
        (
            issuer("dpop: {required: ▶often}"),
            "spec.dpop.required",
            "true or false",
        ),
        (
            issuer("dpop: {▶nonces: true}"),
            "spec.dpop.nonces",
            "did you mean `nonce`",
        ),
    ]);
}

/// An issuer that is asked so.
fn introspection(settings: &str) -> String {
    document(
        "Issuer",
        &format!("issuer: https://idp.example.com\naudiences: [a]\nintrospection: {settings}"),
    )
}

/// An issuer that is asked, with a further field.
fn introspecting(field: &str) -> String {
    let right = introspection("{url: 'https://a/', clientId: a, clientSecretFile: policy.yaml}");
    right.replace("issuer: https", &format!("{field}\n  issuer: https"))
}
