//! The configuration as it is written.

use serde::Deserialize;

use enforcer_policy::raw::{Duration, OneOrMany, Quantity, Rate};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Config {
    pub(super) policies: Option<OneOrMany<String>>,
    pub(super) admin: Option<Admin>,
    pub(super) metrics: Option<Metrics>,
    pub(super) runtime_dir: Option<String>,
    pub(super) state_dir: Option<String>,
    pub(super) secrets_dir: Option<String>,
    pub(super) log: Option<Log>,
    pub(super) kernel: Option<Kernel>,
    pub(super) gateway: Option<Gateway>,
    pub(super) adapt: Option<Adapt>,
    pub(super) audit: Option<Audit>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Audit {
    pub(super) file: Option<String>,
    pub(super) stdout: Option<bool>,
    pub(super) max_size: Option<Quantity>,
    pub(super) keep: Option<u32>,
    pub(super) sample: Option<u32>,
    pub(super) per_second: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Admin {
    pub(super) address: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Metrics {
    pub(super) address: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    pub(super) level: Option<Level>,
    pub(super) format: Option<Format>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    Json,
    Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Kernel {
    pub(super) enabled: Option<bool>,
    pub(super) xdp: Option<Xdp>,
    pub(super) management: Option<Vec<String>>,
    pub(super) sketch_memory: Option<Quantity>,
    pub(super) max_flows: Option<u32>,
    pub(super) pins: Option<String>,
    pub(super) on_stop: Option<OnStop>,
    pub(super) dead_man: Option<Duration>,
    pub(super) dead_man_keeps_denials: Option<bool>,
    pub(super) dead_man_keeps_cookies: Option<bool>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnStop {
    Keep,
    Detach,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Xdp {
    Auto,
    Native,
    Generic,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Gateway {
    pub(super) workers: Option<u32>,
    pub(super) drain: Option<Duration>,
    pub(super) max_connections: Option<u32>,
    pub(super) zone: Option<String>,
    pub(super) per_source: Option<PerSource>,
    pub(super) shedding: Option<Shedding>,
    pub(super) listeners: Option<Vec<Listener>>,
    pub(super) auth_failures: Option<AuthFailures>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PerSource {
    pub(super) connections: Option<u32>,
    pub(super) handshakes: Option<HandshakeBudget>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shedding {
    pub(super) low: Option<Duration>,
    pub(super) normal: Option<Duration>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HandshakeBudget {
    pub(super) rate: Option<Rate>,
    pub(super) burst: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Listener {
    pub(super) name: Option<String>,
    pub(super) address: Option<String>,
    pub(super) tls: Option<Tls>,
    pub(super) proxy_protocol: Option<ProxyProtocol>,
    pub(super) handshakes: Option<Handshakes>,
    pub(super) timeouts: Option<Timeouts>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Handshakes {
    pub(super) concurrent: Option<u32>,
    pub(super) per_source: Option<HandshakeBudget>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProxyProtocol {
    pub(super) from: Option<OneOrMany<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Tls {
    pub(super) certificate: Option<String>,
    pub(super) key: Option<String>,
    pub(super) certificates: Option<Vec<Certificate>>,
    pub(super) client_ca: Option<OneOrMany<super::authorities::Raw>>,
    pub(super) client_certificates: Option<ClientCertificates>,
    pub(super) crls: Option<Crls>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Certificate {
    pub(super) certificate: Option<String>,
    pub(super) key: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Crls {
    pub(super) files: Option<OneOrMany<String>>,
    pub(super) unknown: Option<Unsure>,
    pub(super) expired: Option<Unsure>,
    pub(super) depth: Option<Depth>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Unsure {
    Deny,
    Allow,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Depth {
    Chain,
    Leaf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ClientCertificates {
    Required,
    Optional,
    Off,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Timeouts {
    pub(super) handshake: Option<Duration>,
    pub(super) header: Option<Duration>,
    pub(super) idle: Option<Duration>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct AuthFailures {
    pub(super) rate: Option<Rate>,
    pub(super) deny_for: Option<Duration>,
    pub(super) ends: Option<Ends>,
    pub(super) attempts: Option<Rate>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Ends {
    Gateway,
    All,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Adapt {
    pub(super) interval: Option<Duration>,
    pub(super) latency: Option<Duration>,
}
