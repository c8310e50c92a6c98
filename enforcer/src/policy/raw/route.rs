//! The `spec` of a `Route`.

use serde::Deserialize;

use super::{
    Claims, Duration, FieldChanges, Forward, Match, Mirror, Mode, OneOrMany, Quantity, Redirect,
    RequestLimit, RequireApiKey, Rewrite, Subject, Weighted,
};

/// The `spec` of a `Route`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Route {
    pub(crate) mode: Option<Mode>,
    pub(crate) hosts: Option<OneOrMany<String>>,
    pub(crate) passthrough: Option<Passthrough>,
    pub(crate) limits: Option<Vec<RequestLimit>>,
    pub(crate) rules: Option<Vec<Rule>>,
}

/// `passthrough`: TLS that the services end.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Passthrough {
    pub(crate) proxy_protocol: Option<ProxyVersion>,
}

/// How services are told whose connection it is.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ProxyVersion {
    V2,
}

/// An element of `rules`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Rule {
    #[serde(rename = "match")]
    pub(crate) matches: Option<Match>,
    pub(crate) mode: Option<Mode>,
    pub(crate) require: Option<Require>,
    pub(crate) forward: Option<Forward>,
    pub(crate) limits: Option<Vec<RequestLimit>>,
    pub(crate) service: Option<String>,
    pub(crate) services: Option<Vec<Weighted>>,
    pub(crate) redirect: Option<Redirect>,
    pub(crate) rewrite: Option<Rewrite>,
    pub(crate) mirror: Option<Mirror>,
    pub(crate) request_headers: Option<FieldChanges>,
    pub(crate) response_headers: Option<FieldChanges>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) max_body: Option<Quantity>,
    pub(crate) priority: Option<Priority>,
    pub(crate) upgrade: Option<OneOrMany<Upgrade>>,
    pub(crate) idle: Option<Duration>,
}

/// Whose requests are refused first.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Priority {
    Low,
    Normal,
    High,
}

/// What connections may be switched to.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Upgrade {
    WebSocket,
    Connect,
}

/// `require`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Require {
    pub(crate) anonymous: Option<bool>,
    pub(crate) from: Option<OneOrMany<String>>,
    pub(crate) when: Option<String>,
    pub(crate) mtls: Option<Mtls>,
    pub(crate) token: Option<Token>,
    pub(crate) api_key: Option<RequireApiKey>,
}

/// `require.mtls`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mtls {
    pub(crate) spiffe: Option<OneOrMany<String>>,
    pub(crate) dns: Option<OneOrMany<String>>,
    pub(crate) subject: Option<Subject>,
}

/// `require.token`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Token {
    pub(crate) issuer: Option<String>,
    pub(crate) scopes: Option<OneOrMany<String>>,
    pub(crate) claims: Option<Claims>,
    pub(crate) roles: Option<OneOrMany<String>>,
}
