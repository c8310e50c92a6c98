//! Documents as they are written: plain serde structures, from which nothing but spelling follows.
//!
//! Every field is optional and every leaf is text, so that one bad value does not hide the next:
//! [`super::build`] judges them and knows where each stands.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, de::IgnoredAny};

mod access;
mod api_keys;
mod destination;
mod issuer;
mod matching;
mod revocations;
mod service;
mod shape;

pub(crate) use access::{ClaimValue, ClaimValues, Claims, Forward, Subject};
pub(crate) use api_keys::{ApiKey, ApiKeys, RequireApiKey};
pub(crate) use destination::{FieldChanges, Mirror, PathChange, Redirect, Rewrite, Scheme, Weighted};
pub(crate) use issuer::{Dpop, Introspection};
pub(crate) use matching::{HeaderMatch, Match, PathMatch, QueryMatch};
pub(crate) use revocations::{Revocation, Revocations};
pub(crate) use service::{
    Balance, Endpoint, HashKey, Health, Outliers, Protocol, Retries, Service, SuccessRate, UpstreamLimits,
    UpstreamTls,
};
pub(crate) use shape::{
    DenyEntry, Duration, EgressAllow, EgressDeny, EgressPort, OneOrMany, Port, Prefixes, Quantity, Rate,
    Recent, RecentShare,
};

/// What every document has.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Header {
    pub(crate) api_version: Option<String>,
    pub(crate) kind: Option<Kind>,
    pub(crate) metadata: Option<Metadata>,
    /// Read once the kind is known.
    #[expect(
        dead_code,
        reason = "a known field of every document; its kind decides how it is read"
    )]
    spec: Option<IgnoredAny>,
    #[expect(dead_code, reason = "what Kubernetes writes back is accepted and ignored")]
    status: Option<IgnoredAny>,
}

/// What a document is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) enum Kind {
    PacketPolicy,
    Service,
    Route,
    Issuer,
    ApiKeys,
    Revocations,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Kubernetes' metadata, of which only the name matters here.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[expect(
    dead_code,
    reason = "what Kubernetes keeps in metadata is accepted and ignored"
)]
pub(crate) struct Metadata {
    pub(crate) name: Option<String>,
    namespace: Option<IgnoredAny>,
    labels: Option<IgnoredAny>,
    annotations: Option<IgnoredAny>,
    uid: Option<IgnoredAny>,
    resource_version: Option<IgnoredAny>,
    generation: Option<IgnoredAny>,
    creation_timestamp: Option<IgnoredAny>,
    deletion_timestamp: Option<IgnoredAny>,
    deletion_grace_period_seconds: Option<IgnoredAny>,
    finalizers: Option<IgnoredAny>,
    generate_name: Option<IgnoredAny>,
    managed_fields: Option<IgnoredAny>,
    owner_references: Option<IgnoredAny>,
    self_link: Option<IgnoredAny>,
}

/// Whether verdicts are carried out.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    Enforce,
    Shadow,
}

/// What becomes of a packet that a rule ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    Drop,
    Reset,
}

/// The `spec` of a `PacketPolicy`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct PacketPolicy {
    pub(crate) mode: Option<Mode>,
    pub(crate) action: Option<Action>,
    pub(crate) interfaces: Option<OneOrMany<String>>,
    pub(crate) ports: Option<OneOrMany<Port>>,
    pub(crate) allow: Option<Vec<String>>,
    pub(crate) deny: Option<Vec<DenyEntry>>,
    pub(crate) limits: Option<Vec<PacketLimit>>,
    pub(crate) verified: Option<Verified>,
    pub(crate) egress: Option<Egress>,
    pub(crate) syn: Option<Syn>,
}

/// `egress`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Egress {
    pub(crate) of: Option<EgressOf>,
    pub(crate) default: Option<EgressDefault>,
    pub(crate) allow: Option<Vec<EgressAllow>>,
    pub(crate) deny: Option<Vec<EgressDeny>>,
    pub(crate) limits: Option<Vec<EgressLimit>>,
}

/// `egress.of`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EgressOf {
    Node,
    Pod,
}

/// `egress.default`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EgressDefault {
    Allow,
    Deny,
}

/// An element of `egress.limits`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EgressLimit {
    pub(crate) name: Option<String>,
    pub(crate) per: Option<EgressKey>,
    pub(crate) prefix: Option<Prefix>,
    pub(crate) algorithm: Option<Algorithm>,
    pub(crate) rate: Option<Rate>,
    pub(crate) burst: Option<Quantity>,
}

/// Whose packets share one egress limiter.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EgressKey {
    Destination,
    Interface,
}

/// `syn`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Syn {
    pub(crate) cookies: Option<Cookies>,
    pub(crate) above: Option<Rate>,
}

/// `syn.cookies`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Cookies {
    Off,
    Auto,
    Always,
}

/// `verified`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Verified {
    pub(crate) rate: Option<Rate>,
    pub(crate) burst: Option<Quantity>,
    pub(crate) recent: Option<Recent>,
}

/// An element of a packet policy's `limits`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PacketLimit {
    pub(crate) name: Option<String>,
    pub(crate) per: Option<PacketKey>,
    pub(crate) prefix: Option<Prefixes>,
    pub(crate) traffic: Option<OneOrMany<Traffic>>,
    pub(crate) count: Option<Count>,
    pub(crate) algorithm: Option<Algorithm>,
    pub(crate) rate: Option<Rate>,
    pub(crate) burst: Option<Quantity>,
    pub(crate) adaptive: Option<Adaptive>,
    pub(crate) action: Option<Action>,
}

/// Whose packets share one limiter.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PacketKey {
    Source,
    Service,
    Interface,
    Identity,
}

/// Bits of an address that are one source.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Prefix {
    pub(crate) ipv4: Option<u32>,
    pub(crate) ipv6: Option<u32>,
    pub(crate) times: Option<u32>,
}

/// A kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Traffic {
    Tcp,
    TcpSyn,
    Udp,
    Icmp,
    Other,
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Count {
    Packets,
    Bytes,
    Connections,
}

/// How a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Algorithm {
    TokenBucket,
    LeakyBucket,
    FixedWindow,
    SlidingWindow,
}

/// `adaptive`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Adaptive {
    pub(crate) floor: Option<Rate>,
}

/// The `spec` of an `Issuer`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Issuer {
    pub(crate) issuer: Option<String>,
    pub(crate) jwks: Option<Jwks>,
    pub(crate) audiences: Option<OneOrMany<String>>,
    pub(crate) algorithms: Option<OneOrMany<String>>,
    pub(crate) types: Option<OneOrMany<String>>,
    pub(crate) leeway: Option<Duration>,
    pub(crate) tier: Option<String>,
    pub(crate) roles: Option<String>,
    pub(crate) dpop: Option<Dpop>,
    pub(crate) introspection: Option<Introspection>,
}

/// Where keys are.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Jwks {
    pub(crate) url: Option<String>,
    pub(crate) file: Option<String>,
    pub(crate) refresh: Option<Duration>,
    pub(crate) ca: Option<String>,
}

/// The `spec` of a `Route`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Route {
    pub(crate) mode: Option<Mode>,
    pub(crate) hosts: Option<OneOrMany<String>>,
    pub(crate) limits: Option<Vec<RequestLimit>>,
    pub(crate) rules: Option<Vec<Rule>>,
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

/// An element of `limits` of a rule or route.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RequestLimit {
    pub(crate) name: Option<String>,
    pub(crate) per: Option<OneOrMany<RequestKey>>,
    pub(crate) count: Option<Counted>,
    pub(crate) cost: Option<Quantity>,
    pub(crate) algorithm: Option<Algorithm>,
    pub(crate) rate: Option<Rate>,
    pub(crate) burst: Option<Quantity>,
    pub(crate) tiers: Option<BTreeMap<String, Tier>>,
    pub(crate) exceed: Option<Exceed>,
}

/// A part of a request limit's key.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RequestKey {
    Source,
    Prefix(Prefix),
    Certificate,
    #[serde(rename = "token.sub")]
    TokenSubject,
    #[serde(rename = "token.client_id")]
    TokenClient,
    Header(String),
    Tier,
    #[serde(rename = "apiKey")]
    ApiKey,
    Rule,
    Route,
    Service,
}

/// What a limit on requests counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Counted {
    Requests,
    ResponseBytes,
}

/// A value of `tiers`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tier {
    pub(crate) rate: Option<Rate>,
    pub(crate) burst: Option<Quantity>,
}

/// What happens to a request over its limit.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Exceed {
    Reject,
    Queue(Duration),
}
