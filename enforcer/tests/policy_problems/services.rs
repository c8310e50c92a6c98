//! Services and issuers.

use crate::table::{each_has_one, issuer, service};

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
        (issuer("audiences: ▶[]"), "spec.audiences", "the list is empty"),
        (issuer("leeway: ▶10m"), "spec.leeway", "write 0s to 5m"),
        (issuer("types: [▶'']"), "spec.types[0]", "is no media type"),
    ]);
}
