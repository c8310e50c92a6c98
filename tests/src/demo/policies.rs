//! What the demo's agent is configured with: the same documents that an operator would write.

use std::{fmt, net::SocketAddr};

/// The name that the gateway's certificate and routes have.
pub const HOST: &str = "api.lab.example";
/// The `iss` claim.
pub const ISSUER: &str = "https://issuer.lab.example";
/// The `aud` claim.
pub const AUDIENCE: &str = "orders";
/// Who the verified client is.
pub const CLIENT_SPIFFE: &str = "spiffe://lab.example/ns/shop/sa/web";
/// What a token needs.
pub const SCOPE: &str = "orders:read";
/// The packet policy's file.
pub const EDGE_FILE: &str = "edge.yaml";
/// The file of the issuer, the service and the routes.
pub const GATEWAY_FILE: &str = "gateway.yaml";
/// The packet policy's name.
pub const EDGE: &str = "edge";
/// The gateway's port.
pub const PORT: u16 = 8443;
/// Requests per minute on the path with a limit.
pub const REPORTS_PER_MINUTE: usize = 5;

/// Whether the packet policy drops or only counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Enforce,
    Shadow,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
        })
    }
}

/// The agent's configuration.
#[must_use]
pub fn config() -> String {
    format!(
        r#"policies: [policies]
admin: {{address: 127.0.0.1:9600}}
runtimeDir: run
log: {{level: info, format: json}}
kernel: {{enabled: true, xdp: auto, management: [], sketchMemory: 4MiB, maxFlows: 65536, pins: off}}
gateway:
  workers: 2
  drain: 5s
  listeners:
    - name: edge
      address: "0.0.0.0:{PORT}"
      tls: {{certificate: server.pem, key: server-key.pem, clientCa: ca.pem, clientCertificates: required}}
  authFailures: {{rate: 10/m, denyFor: 5m}}
adapt: {{interval: 1s, latency: 250ms}}
"#
    )
}

/// Limits for the gateway's port, on the links that strangers can reach it by.
#[must_use]
pub fn edge(mode: Mode) -> String {
    format!(
        r#"apiVersion: enforcer.dev/v1
kind: PacketPolicy
metadata: {{name: {EDGE}}}
spec:
  mode: {mode}
  interfaces: [to-client, to-attacker]
  ports: [tcp/{PORT}]
  limits:
    # What one source may send.
    - {{name: per-source, per: source, count: packets, algorithm: token-bucket, rate: 1000/s, burst: 2000}}
    # What all strangers together may send. Verified connections have their own budget.
    - {{name: strangers, per: service, count: packets, algorithm: token-bucket, rate: 3000/s, burst: 6000}}
  verified: {{rate: 20000/s, burst: 40000}}
"#
    )
}

/// The issuer, the service and its routes.
#[must_use]
pub fn gateway(jwks: SocketAddr, upstreams: [SocketAddr; 2]) -> String {
    let [a, b] = upstreams;
    let require = format!(
        r#"mtls: {{spiffe: ["spiffe://lab.example/ns/shop/sa/*"]}}
        token: {{issuer: lab, scopes: ["{SCOPE}"]}}"#
    );
    format!(
        r#"apiVersion: enforcer.dev/v1
kind: Issuer
metadata: {{name: lab}}
spec:
  issuer: {ISSUER}
  jwks: {{url: "http://{jwks}/jwks", refresh: 10m}}
  audiences: [{AUDIENCE}]
  algorithms: [ES256]
---
apiVersion: enforcer.dev/v1
kind: Service
metadata: {{name: orders}}
spec:
  endpoints: ["http://{a}", "http://{b}"]
  balance: least-request
  health: {{path: /healthz, interval: 1s}}
---
apiVersion: enforcer.dev/v1
kind: Route
metadata: {{name: orders}}
spec:
  hosts: [{HOST}]
  rules:
    - match: {{path: {{prefix: /v1/reports}}, methods: [GET]}}
      require:
        {require}
      limits:
        - {{per: [token.sub], algorithm: sliding-window, rate: {REPORTS_PER_MINUTE}/m}}
      service: orders
      timeout: 2s
    - match: {{path: {{prefix: /v1/orders}}, methods: [GET]}}
      require:
        {require}
      service: orders
      timeout: 2s
"#
    )
}
