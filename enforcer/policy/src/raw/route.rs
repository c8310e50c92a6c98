//! The `spec` of a `Route`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Claims, Duration, FieldChanges, Forward, Match, Mirror, Mode, OneOrMany, Quantity, Redirect,
    RequestLimit, RequireApiKey, Rewrite, Subject, Weighted,
};

/// The `spec` of a `Route`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Whether requests are refused, or refusals only counted; in `shadow` every request is let through.
    ///
    /// - default: `enforce`
    /// - example: `shadow`
    pub mode: Option<Mode>,
    /// The hosts that it is about, without ports.
    ///
    /// - required
    /// - range: names, `*.name` for all names below one, or `*` for all
    /// - example: `[api.example.com, "*.shop.example.com"]`
    pub hosts: Option<OneOrMany<String>>,
    /// The listeners at which it is served, by their names in the agent's configuration; elsewhere it answers 404.
    ///
    /// - default: at all listeners
    /// - range: names
    /// - example: `[partners]`
    pub listeners: Option<OneOrMany<String>>,
    /// TLS connections for these hosts go to the services as they are, by the name that the client asks for.
    ///
    /// - default: the gateway ends TLS
    /// - example: `{proxyProtocol: v2}`
    pub passthrough: Option<Passthrough>,
    /// Limits that all rules share.
    ///
    /// - default: `[]`
    /// - range: each rule has at most 8 limits, these included
    /// - example: `[{per: source, rate: 1000/m}]`
    pub limits: Option<Vec<RequestLimit>>,
    /// What is admitted, and where it goes. The first rule that matches decides.
    ///
    /// - required
    /// - range: 1 to 1000
    /// - example: `[{match: {path: {prefix: /v1}}, require: {mtls: {}}, service: orders}]`
    pub rules: Option<Vec<Rule>>,
}

/// `passthrough`: TLS that the services end.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Passthrough {
    /// How services are told whose connection it is.
    ///
    /// - default: they are not told
    /// - range: `v2`
    /// - example: `v2`
    pub proxy_protocol: Option<ProxyVersion>,
}

/// How services are told whose connection it is.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProxyVersion {
    V2,
}

/// An element of `rules`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Rule {
    /// Which requests it is about.
    ///
    /// - default: `{path: {prefix: /}}`
    /// - example: `{path: {prefix: /v1/orders}, methods: [GET]}`
    #[serde(rename = "match")]
    pub matches: Option<Match>,
    /// Whether this rule's requests are refused, or refusals only counted.
    ///
    /// - default: the route's `mode`
    /// - example: `shadow`
    pub mode: Option<Mode>,
    /// Who may send them. Without it nobody may.
    ///
    /// - default: nobody
    /// - example: `{mtls: {spiffe: "spiffe://example.com/ns/shop/sa/*"}}`
    pub require: Option<Require>,
    /// What the service is told of the token; only with `require.token`.
    ///
    /// - default: no claims, and the token
    /// - example: `{claims: {x-user-email: email}, token: false}`
    pub forward: Option<Forward>,
    /// Limits on its requests. All must admit a request.
    ///
    /// - default: `[]`
    /// - range: up to 8, those of the route included
    /// - example: `[{per: source, rate: 100/m}]`
    pub limits: Option<Vec<RequestLimit>>,
    /// The service that gets the requests.
    ///
    /// - default: one of `service`, `services` and `redirect` is required
    /// - range: the name of a document of kind `Service`
    /// - example: `orders`
    pub service: Option<String>,
    /// Services of which each request goes to one, by weight.
    ///
    /// - default: one of `service`, `services` and `redirect` is required
    /// - range: 1 to 16
    /// - example: `[{service: orders, weight: 95}, {service: orders-next, weight: 5}]`
    pub services: Option<Vec<Weighted>>,
    /// Where clients are told to ask instead.
    ///
    /// - default: one of `service`, `services` and `redirect` is required
    /// - example: `{scheme: https, status: 308}`
    pub redirect: Option<Redirect>,
    /// What the service gets in place of the client's.
    ///
    /// - default: nothing is changed
    /// - example: `{path: {replace: /api/v2}}`
    pub rewrite: Option<Rewrite>,
    /// A service that gets copies of requests.
    ///
    /// - default: none
    /// - range: not together with `redirect` and `upgrade`
    /// - example: `{service: orders-next, percent: 10}`
    pub mirror: Option<Mirror>,
    /// Changes of header fields of requests.
    ///
    /// - default: `{}`
    /// - range: up to 32 of each kind; not with `redirect`
    /// - example: `{set: {x-edge: eu-1}}`
    pub request_headers: Option<FieldChanges>,
    /// Changes of header fields of responses, refusals excepted.
    ///
    /// - default: `{}`
    /// - range: up to 32 of each kind
    /// - example: `{remove: server}`
    pub response_headers: Option<FieldChanges>,
    /// How long the body may take to come, and then the head of the response.
    ///
    /// - default: `15s`
    /// - range: 1ms to 1h
    /// - example: `2s`
    pub timeout: Option<Duration>,
    /// The largest body of a request.
    ///
    /// - default: `1MiB`
    /// - range: a size in bytes, from 0 to 1024GiB
    /// - example: `256KiB`
    pub max_body: Option<Quantity>,
    /// Whose requests are refused first where not all can be served.
    ///
    /// - default: `normal`
    /// - example: `high`
    pub priority: Option<Priority>,
    /// What connections may be switched to.
    ///
    /// - default: none
    /// - range: not with `redirect`, nor to services of `protocol: http2`
    /// - example: `websocket`
    pub upgrade: Option<OneOrMany<Upgrade>>,
    /// How long a response or a switched connection may be silent.
    ///
    /// - default: the listener's `timeouts.idle`
    /// - range: 1ms to 1d
    /// - example: `10m`
    pub idle: Option<Duration>,
}

/// Whose requests are refused first.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    Low,
    Normal,
    High,
}

/// What connections may be switched to.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Upgrade {
    WebSocket,
    Connect,
}

/// `require`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Require {
    /// Whether everybody is admitted.
    ///
    /// - default: `false`
    /// - range: not together with `mtls`, `token` and `apiKey`
    /// - example: `true`
    pub anonymous: Option<bool>,
    /// Where requests must come from, by the address of the peer.
    ///
    /// - default: everywhere
    /// - range: up to 256 prefixes, beside what says who may
    /// - example: `[10.0.0.0/8, "2001:db8::/32"]`
    pub from: Option<OneOrMany<String>>,
    /// A condition in CEL that must hold.
    ///
    /// - default: none
    /// - range: up to 2KiB, beside what says who may
    /// - example: `'request.method in ["GET", "HEAD"]'`
    pub when: Option<String>,
    /// What client certificate they must have; `{}`: any that the listener trusts.
    ///
    /// - default: none is required
    /// - example: `{dns: batch.example.com}`
    pub mtls: Option<Mtls>,
    /// What access token they must bring.
    ///
    /// - default: none is required
    /// - example: `{issuer: corp, scopes: ["orders:read"]}`
    pub token: Option<Token>,
    /// What API key they must bring.
    ///
    /// - default: none is required
    /// - example: `{keys: partners}`
    pub api_key: Option<RequireApiKey>,
}

/// `require.mtls`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mtls {
    /// Authorities, one of which must vouch for the certificate, by their names in `clientCa` of the listener.
    ///
    /// - default: any that the listener trusts
    /// - range: names
    /// - example: `partners`
    pub authority: Option<OneOrMany<String>>,
    /// SPIFFE identities, of which the certificate must have one.
    ///
    /// - default: any
    /// - range: `spiffe://DOMAIN/PATH`; `/*` at the end stands for all below
    /// - example: `["spiffe://example.com/ns/shop/sa/*"]`
    pub spiffe: Option<OneOrMany<String>>,
    /// DNS names, of which the certificate must have one.
    ///
    /// - default: any
    /// - range: names; `*.` stands for one label
    /// - example: `["*.batch.example.com"]`
    pub dns: Option<OneOrMany<String>>,
    /// What the subject of the certificate must be.
    ///
    /// - default: any
    /// - example: `{o: Example}`
    pub subject: Option<Subject>,
}

/// `require.token`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Who must have signed it.
    ///
    /// - required
    /// - range: the name of a document of kind `Issuer`
    /// - example: `corp`
    pub issuer: Option<String>,
    /// Scopes, all of which it must have.
    ///
    /// - default: none
    /// - range: RFC 6749 section 3.3
    /// - example: `["orders:read", "orders:write"]`
    pub scopes: Option<OneOrMany<String>>,
    /// Claims, by their paths, and the values of which each must have one.
    ///
    /// - default: none
    /// - range: up to 16, of up to 256 values each; paths: `a.b`, a JSON pointer, or a URI
    /// - example: `{region: [eu, uk], level: 2}`
    pub claims: Option<Claims>,
    /// Roles, all of which it must have, where the issuer's `roles` says they are.
    ///
    /// - default: none
    /// - range: 1 to 256 bytes each
    /// - example: `[accountant]`
    pub roles: Option<OneOrMany<String>>,
}
