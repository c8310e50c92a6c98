//! The `spec` of a `PacketPolicy`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Algorithm, DenyEntry, EgressAllow, EgressDeny, Mode, OneOrMany, Port, Prefix, Prefixes, Quantity, Rate,
    Recent,
};

/// The `spec` of a `PacketPolicy`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PacketPolicy {
    /// Whether verdicts are carried out, or only counted.
    ///
    /// - default: `enforce`
    /// - example: `shadow`
    pub mode: Option<Mode>,
    /// What becomes of packets that `deny`, `limits` or a budget end.
    ///
    /// - default: `drop`
    /// - example: `reset`
    pub action: Option<Action>,
    /// Names of interfaces, or patterns with `*`.
    ///
    /// - required
    /// - example: `[eth0, "veth*"]`
    pub interfaces: Option<OneOrMany<String>>,
    /// The local ports that the policy is about.
    ///
    /// - default: all traffic
    /// - range: `tcp/N` or `udp/N`, N from 1 to 65535
    /// - example: `[tcp/443, udp/53]`
    pub ports: Option<OneOrMany<Port>>,
    /// Sources that this policy never limits.
    ///
    /// - default: none
    /// - range: prefixes
    /// - example: `[10.96.0.0/12]`
    pub allow: Option<Vec<String>>,
    /// Sources whose packets are dropped.
    ///
    /// - default: `[]`
    /// - range: prefixes, or mappings
    /// - example: `[192.0.2.0/24, {cidr: 198.51.100.0/24, reason: abuse 4711}]`
    pub deny: Option<Vec<DenyEntry>>,
    /// How much may come. All limits must admit a packet.
    ///
    /// - default: `[]`
    /// - range: up to 4
    /// - example: `[{name: per-client, rate: 20000/s}]`
    pub limits: Option<Vec<PacketLimit>>,
    /// What verified identities, and sources that were verified recently, have for themselves.
    ///
    /// - default: by the limits
    /// - example: `{rate: 50000/s, burst: 100000}`
    pub verified: Option<Verified>,
    /// What may leave.
    ///
    /// - default: `{}`
    /// - example: `{deny: [169.254.169.254/32]}`
    pub egress: Option<Egress>,
    /// Whether SYNs are answered with cookies.
    ///
    /// - default: `{cookies: "off"}`
    /// - example: `{cookies: always}`
    pub syn: Option<Syn>,
    /// What becomes of MPLS, PPPoE and MACsec frames, which may carry IP that only their own device unwraps.
    ///
    /// - default: `pass`
    /// - example: `drop`
    pub opaque: Option<Opaque>,
}

/// What becomes of frames that may carry IP for another device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Opaque {
    Pass,
    Drop,
}

/// What becomes of a packet that a rule ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Drop,
    Reset,
}

/// An element of a packet policy's `limits`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PacketLimit {
    /// What metrics and `explain` call it; a limit keeps its state while its name stays.
    ///
    /// - default: `limit-N` by position, from 1
    /// - range: 1 to 63 of a-z, 0-9 and -
    /// - example: `per-client`
    pub name: Option<String>,
    /// Who shares a limiter.
    ///
    /// - default: `source`
    /// - example: `interface`
    pub per: Option<PacketKey>,
    /// The bits of an address that are one source; only with `per: source`.
    ///
    /// - default: `{ipv4: 32, ipv6: 64}`
    /// - range: one level or several; all limits of a policy have at most 8 together
    /// - example: `{ipv4: 24, ipv6: 56}`
    pub prefix: Option<Prefixes>,
    /// The kinds of traffic that it is about.
    ///
    /// - default: all
    /// - example: `tcp-syn`
    pub traffic: Option<OneOrMany<Traffic>>,
    /// What is counted.
    ///
    /// - default: `packets`
    /// - example: `connections`
    pub count: Option<Count>,
    /// How it is counted.
    ///
    /// - default: `token-bucket`
    /// - example: `sliding-window`
    pub algorithm: Option<Algorithm>,
    /// How much may come, and in which time.
    ///
    /// - required
    /// - range: a rate; of bytes only with `count: bytes`
    /// - example: `20000/s`
    pub rate: Option<Rate>,
    /// How much may come at once; windows have none.
    ///
    /// - default: what comes in one second; of bytes at least 64KiB
    /// - range: an amount, or a size with `count: bytes`; from 1
    /// - example: `40k`
    pub burst: Option<Quantity>,
    /// Lets the controller lower the rate.
    ///
    /// - default: the rate stays
    /// - example: `{floor: 2000/s}`
    pub adaptive: Option<Adaptive>,
    /// What becomes of packets over the limit.
    ///
    /// - default: the policy's `action`
    /// - example: `reset`
    pub action: Option<Action>,
}

/// Whose packets share one limiter.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PacketKey {
    Source,
    Service,
    Interface,
    Identity,
}

/// A kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Traffic {
    Tcp,
    TcpSyn,
    Udp,
    Icmp,
    Other,
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Count {
    Packets,
    Bytes,
    Connections,
}

/// `adaptive`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Adaptive {
    /// The lowest rate that the controller goes to.
    ///
    /// - required
    /// - range: a rate, not above that of the limit
    /// - example: `100/s`
    pub floor: Option<Rate>,
}

/// `verified`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Verified {
    /// Packets of one identity over all its connections.
    ///
    /// - default: by the limits, where only `recent` is written
    /// - range: a rate of packets
    /// - example: `50000/s`
    pub rate: Option<Rate>,
    /// Packets that may come at once; only beside `rate`.
    ///
    /// - default: what comes in one second
    /// - range: packets, from 1
    /// - example: `100000`
    pub burst: Option<Quantity>,
    /// What a source keeps after its last verified connection.
    ///
    /// - default: `{rate: 50/s, burst: 100, for: 10m}`
    /// - range: `off`, or a mapping
    /// - example: `{rate: 20/s, for: 1h}`
    pub recent: Option<Recent>,
}

/// `syn`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Syn {
    /// When SYNs are answered with cookies.
    ///
    /// - required
    /// - example: `auto`
    pub cookies: Option<Cookies>,
    /// SYNs of the whole policy from which on `cookies: auto` answers them.
    ///
    /// - default: `1000/s`
    /// - range: a rate of packets; only with `cookies: auto`
    /// - example: `5000/s`
    pub above: Option<Rate>,
}

/// `syn.cookies`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Cookies {
    Off,
    Auto,
    Always,
}

/// `egress`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Egress {
    /// Whether it is about what leaves by the interface, or about what the pod behind it sends.
    ///
    /// - default: `node`
    /// - example: `pod`
    pub of: Option<EgressOf>,
    /// What becomes of packets that no entry is about.
    ///
    /// - default: `allow`
    /// - example: `deny`
    pub default: Option<EgressDefault>,
    /// Destinations that may be reached.
    ///
    /// - default: none
    /// - range: prefixes, or mappings
    /// - example: `[{cidr: 10.0.0.0/8, ports: tcp/443}]`
    pub allow: Option<Vec<EgressAllow>>,
    /// Destinations that may not be reached.
    ///
    /// - default: `[]`
    /// - range: prefixes, or mappings
    /// - example: `[169.254.169.254/32]`
    pub deny: Option<Vec<EgressDeny>>,
    /// How much may leave.
    ///
    /// - default: `[]`
    /// - range: up to 2
    /// - example: `[{per: interface, rate: 1Gbit/s}]`
    pub limits: Option<Vec<EgressLimit>>,
}

/// `egress.of`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EgressOf {
    Node,
    Pod,
}

/// `egress.default`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EgressDefault {
    Allow,
    Deny,
}

/// An element of `egress.limits`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EgressLimit {
    /// What metrics call it.
    ///
    /// - default: `egress-N` by position, from 1
    /// - range: 1 to 63 of a-z, 0-9 and -
    /// - example: `uplink`
    pub name: Option<String>,
    /// Whose packets share a limiter.
    ///
    /// - default: `destination`
    /// - example: `interface`
    pub per: Option<EgressKey>,
    /// The bits of an address that are one destination; only with `per: destination`.
    ///
    /// - default: `{ipv4: 32, ipv6: 64}`
    /// - range: one level, without `times`
    /// - example: `{ipv4: 24}`
    #[schemars(schema_with = "super::schema::one_prefix")]
    pub prefix: Option<Prefix>,
    /// How it is counted.
    ///
    /// - default: `token-bucket`
    /// - example: `leaky-bucket`
    pub algorithm: Option<Algorithm>,
    /// Bytes that may leave, and in which time.
    ///
    /// - required
    /// - range: a rate of bytes
    /// - example: `100Mbit/s`
    pub rate: Option<Rate>,
    /// Bytes that may leave at once; windows have none.
    ///
    /// - default: what leaves in one second, at least 64KiB
    /// - range: a size, from 1
    /// - example: `1MiB`
    pub burst: Option<Quantity>,
}

/// Whose packets share one egress limiter.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EgressKey {
    Destination,
    Interface,
}
