//! The `spec` of a `PacketPolicy`.

use serde::Deserialize;

use super::{
    Algorithm, DenyEntry, EgressAllow, EgressDeny, Mode, OneOrMany, Port, Prefix, Prefixes, Quantity, Rate,
    Recent,
};

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

/// What becomes of a packet that a rule ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    Drop,
    Reset,
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

/// `adaptive`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Adaptive {
    pub(crate) floor: Option<Rate>,
}

/// `verified`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Verified {
    pub(crate) rate: Option<Rate>,
    pub(crate) burst: Option<Quantity>,
    pub(crate) recent: Option<Recent>,
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
