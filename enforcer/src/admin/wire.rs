//! What goes over the admin address, as JSON.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};

use enforcer_model::address::canonical_prefix;

/// How things stand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub version: String,
    pub uptime_seconds: u64,
    pub ready: bool,
    /// The policy generation in force.
    pub generation: u64,
    pub digest: String,
    /// RFC 3339.
    pub since: Option<String>,
    /// Why a later change of the policies is not in force.
    pub refused: Option<String>,
    /// The configuration file, as it was read last.
    #[serde(default)]
    pub configuration: ConfigurationStatus,
    /// `None`: the kernel half is off.
    pub kernel: Option<KernelStatus>,
    pub policies: Vec<PolicyStatus>,
    pub routes: Vec<String>,
    pub services: Vec<String>,
    #[serde(default)]
    pub listeners: Vec<ListenerStatus>,
    /// Whose keys verify tokens.
    #[serde(default)]
    pub issuers: Vec<IssuerStatus>,
    /// Endpoints that get no requests now.
    #[serde(default)]
    pub unused_endpoints: Vec<UnusedEndpointStatus>,
}

/// What became of the configuration file when it was read last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationStatus {
    /// Why the older configuration is still in force.
    pub refused: Option<String>,
    /// Fields whose new values need a restart.
    pub needs_restart: Vec<String>,
}

/// A listener of the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    pub name: String,
    pub address: SocketAddr,
    /// Its files of certificates, each with the time until which it is valid (RFC 3339).
    pub files: Vec<String>,
    /// Why changed files are not in use: the older ones are.
    pub failures: Vec<String>,
}

/// An issuer whose keys are read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuerStatus {
    pub name: String,
    /// Keys in use.
    pub keys: usize,
    /// Since when they were read last. `None`: they never were.
    pub age_seconds: Option<u64>,
    /// Why the last reading failed.
    pub failure: Option<String>,
}

/// An endpoint that gets no requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnusedEndpointStatus {
    pub service: String,
    pub endpoint: String,
    /// Its health checks fail.
    pub unhealthy: bool,
    /// Requests failed there, so it is left alone for a while.
    pub ejected: bool,
}

/// The kernel half.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelStatus {
    pub interfaces: Vec<InterfaceStatus>,
    /// Interfaces that policies name and the programs are not on.
    pub failures: Vec<InterfaceFailure>,
    pub verified_flows: u64,
    pub verified_identities: u64,
    pub denials: u64,
    /// Connections that are revoked.
    #[serde(default)]
    pub revoked_flows: u64,
    pub sketch_bytes: u64,
    /// Where links and maps are pinned. `None`: they end with the agent.
    pub pins: Option<String>,
    /// Why they are not.
    pub pins_off: Option<String>,
    /// `kept`: limiter states, counters and denials go on where an earlier agent was; else `fresh`.
    pub state: String,
    /// Why it began fresh.
    pub state_why: Option<String>,
    /// What SYN defence lacks on this node; empty if nothing, or if no policy has it.
    #[serde(default)]
    pub syn_shortfalls: Vec<String>,
    /// Why other processes' sockets cannot be destroyed here. `None`: they can.
    #[serde(default)]
    pub revoke_shortfall: Option<String>,
}

/// An interface with the programs on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    pub name: String,
    /// `native` or `generic`.
    pub xdp: String,
    /// `tcx` or `clsact`.
    pub tc: String,
    /// Whether what its other end sends is judged.
    #[serde(default)]
    pub pod: bool,
}

/// An interface without them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InterfaceFailure {
    pub name: String,
    pub why: String,
}

/// A packet policy and what it has done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    pub name: String,
    pub mode: String,
    /// `calm`, `pressure` or `attack`.
    pub state: String,
    pub passed_packets: u64,
    pub dropped_packets: u64,
    /// Passed, and would have been dropped without `shadow`.
    pub shadow_packets: u64,
    /// SYNs answered with a cookie before the stack.
    #[serde(default)]
    pub answered_packets: u64,
    /// Of those that were dropped: their senders were told so.
    #[serde(default)]
    pub reset_packets: u64,
    /// Whether SYNs are answered with cookies now; `None`: the policy says never.
    #[serde(default)]
    pub answers_syns: Option<bool>,
}

fn canonical<'de, D: Deserializer<'de>>(from: D) -> Result<IpNet, D::Error> {
    IpNet::deserialize(from).map(canonical_prefix)
}

/// A request to deny.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DenyRequest {
    #[serde(deserialize_with = "canonical")]
    pub prefix: IpNet,
    pub reason: String,
    pub for_seconds: u64,
    #[serde(default)]
    pub action: Action,
}

/// A source is denied.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeniedStatus {
    /// Management inside the denied prefix, which passes all the same.
    pub still_passes: Vec<IpNet>,
    /// Why the denial would not outlive a reboot.
    #[serde(default)]
    pub unkept: Option<String>,
}

/// What becomes of the packets of a denied source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// They are dropped.
    #[default]
    Drop,
    /// Their senders are told: by a TCP reset, or by an ICMP error.
    Reset,
}

impl From<Action> for enforcer_model::Action {
    fn from(action: Action) -> Self {
        match action {
            Action::Drop => Self::Drop,
            Action::Reset => Self::Reset,
        }
    }
}

impl From<enforcer_model::Action> for Action {
    fn from(action: enforcer_model::Action) -> Self {
        match action {
            enforcer_model::Action::Drop => Self::Drop,
            enforcer_model::Action::Reset => Self::Reset,
        }
    }
}

/// A request to end connections, or to revoke a proof.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RevokeRequest {
    pub whom: Revokee,
    pub reason: String,
    /// How long what still comes of them is dropped.
    pub for_seconds: u64,
    /// Also a key that no document has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unknown: bool,
}

/// Whose connections are to end, or which proof is to hold no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub enum Revokee {
    /// Those of an address or a prefix, which is denied too.
    Prefix(#[serde(deserialize_with = "canonical")] IpNet),
    /// Those from one address and port.
    Endpoint(SocketAddr),
    /// Those of the gateway behind which somebody has proved to be, as `explain` names them.
    Identity(String),
    /// A token: the policy's name of its issuer, and its `jti`. From here on, later requests are refused too.
    Token { issuer: String, jti: String },
    /// All tokens of a subject.
    Subject { issuer: String, sub: String },
    /// All tokens of a client.
    Client { issuer: String, client_id: String },
    /// An API key, by its id.
    ApiKey(String),
    /// A client certificate.
    Certificate(CertificateName),
}

/// A certificate: `sha256` alone, or the other two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateName {
    /// Of its DER, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// In hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Its issuer's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
}

/// What has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevokedStatus {
    /// Connections of the gateway.
    pub gateway_connections: u64,
    /// Other processes' sockets.
    pub tcp_sockets: u64,
    /// Those of them that are UDP.
    pub udp_sockets: u64,
    /// Connections whose packets are dropped now.
    pub dropped_connections: u64,
    /// The source is denied.
    pub denied: bool,
    /// Later requests with the proof are refused.
    #[serde(default)]
    pub refused: bool,
    /// What was not done, and why.
    pub shortfalls: Vec<String>,
}

/// A request to end a denial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowRequest {
    #[serde(deserialize_with = "canonical")]
    pub prefix: IpNet,
}

/// A denial in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DenialStatus {
    pub prefix: IpNet,
    pub kind: String,
    pub reason: String,
    #[serde(default)]
    pub action: Action,
    pub ends_in_seconds: u64,
}

/// Who to explain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainQuery {
    pub address: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}
