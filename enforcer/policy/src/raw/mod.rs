//! Documents as they are written: plain serde structures, from which nothing but spelling follows.
//!
//! Every field is optional and every leaf is text, so that one bad value does not hide the next:
//! [`crate::judge`] judges them and knows where each stands.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, de::IgnoredAny};

mod access;
mod api_keys;
mod destination;
mod issuer;
mod matching;
mod packet;
mod request_limit;
mod revocations;
mod route;
mod schema;
mod service;
mod shape;

pub use access::{ClaimValue, ClaimValues, Claims, Forward, Subject};
pub use api_keys::{ApiKey, ApiKeys, RequireApiKey};
pub use destination::{FieldChanges, Mirror, PathChange, Redirect, Rewrite, Scheme, Weighted};
pub use issuer::{Dpop, Introspection, Issuer, Jwks, Profile};
pub use matching::{HeaderMatch, Match, PathMatch, QueryMatch};
pub use packet::{
    Action, Cookies, Count, Egress, EgressDefault, EgressKey, EgressLimit, EgressOf, Opaque, PacketKey,
    PacketLimit, PacketPolicy, Syn, Traffic, Verified,
};
pub use request_limit::{Counted, Exceed, RequestKey, RequestLimit, Tier};
pub use revocations::{Revocation, Revocations};
pub use route::{Mtls, Passthrough, Priority, ProxyVersion, Require, Route, Rule, Token, Upgrade};
pub use service::{
    Balance, Endpoint, HashKey, Health, Outliers, Protocol, Retries, Service, SuccessRate, UpstreamLimits,
    UpstreamTls,
};
pub use shape::{
    DenyEntry, Duration, EgressAllow, EgressDeny, EgressPort, OneOrMany, Port, Prefixes, Quantity, Rate,
    Recent, RecentShare,
};

/// What every document has.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Header {
    pub api_version: Option<String>,
    pub kind: Option<Kind>,
    pub metadata: Option<Metadata>,
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
pub enum Kind {
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
pub struct Metadata {
    pub name: Option<String>,
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
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Enforce,
    Shadow,
}

/// Bits of an address that are one source.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Prefix {
    /// Bits of IPv4 addresses.
    ///
    /// - default: 32 in the first level; a later one without it is not about IPv4
    /// - range: 1 to 32
    /// - example: `24`
    pub ipv4: Option<u32>,
    /// Bits of IPv6 addresses.
    ///
    /// - default: 64 in the first level; a later one without it is not about IPv6
    /// - range: 1 to 128
    /// - example: `56`
    pub ipv6: Option<u32>,
    /// How many times the rate and burst this level has; not in `egress`.
    ///
    /// - default: 1
    /// - range: from 1
    /// - example: `8`
    pub times: Option<u32>,
}

/// How a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    TokenBucket,
    LeakyBucket,
    FixedWindow,
    SlidingWindow,
}
