//! The agent's own configuration: one YAML file, read once at start.

use std::{
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;

mod audit;
mod authorities;
mod build;
mod changes;
mod handshakes;
mod proxy_protocol;
mod raw;
pub mod served;
mod tls;

pub use self::changes::Differences;
pub use enforcer_gateway::{
    config::{HandshakeBudget, Handshakes, PerSource, ProxyProtocol},
    pressure::Shedding,
};
pub use enforcer_model::flow::AuthorityId;
use enforcer_model::{Name, leaf::Rate};
use enforcer_policy::{
    files, load,
    problem::{Problem, Problems},
    secrets::SecretsDir,
    yaml::{
        decode::decode,
        place::{Place, Sink, Source},
    },
};
pub use enforcer_telemetry::audit::config::{AuditConfig, Destination};
pub use enforcer_tls::config::{Authority, Bounds, CertificateFiles, Depth, Revocation, Unsure};

/// What the agent runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Files or directories. At least one.
    pub policies: Vec<PathBuf>,
    pub admin: Admin,
    /// `None`: metrics are on the admin address alone.
    pub metrics: Option<Metrics>,
    /// Holds the admin token and sockets.
    pub runtime_dir: PathBuf,
    /// Holds what is to outlive the agent.
    pub state_dir: PathBuf,
    /// Holds the secrets that policies name.
    pub secrets: SecretsDir,
    pub log: Log,
    pub kernel: Kernel,
    pub gateway: Gateway,
    pub adapt: Adapt,
    /// `None`: nothing is recorded.
    pub audit: Option<AuditConfig>,
    /// What does not hinder, and is probably not meant.
    pub warnings: Vec<Problem>,
}

/// Where metrics, health and the operators' interface are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admin {
    pub address: SocketAddr,
}

/// Where metrics are served, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metrics {
    pub address: SocketAddr,
}

/// What is logged, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    pub level: tracing::Level,
    pub format: LogFormat,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Json,
    Text,
}

/// The kernel half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// `false`: the agent is a gateway only.
    pub enabled: bool,
    pub xdp: XdpMode,
    /// Sources that are never dropped.
    pub management: Vec<IpNet>,
    /// Memory of the sketch of unknown sources.
    pub sketch_memory: SketchMemory,
    /// How many verified connections the kernel knows at once.
    pub max_flows: u32,
    /// Where links and maps are pinned, so that they outlive the agent. `None`: nowhere.
    pub pins: Option<PathBuf>,
    pub on_stop: OnStop,
    /// How long limits hold without a sign of the agent. `None`: for ever.
    pub dead_man: Option<Duration>,
    /// Deny lists and operators' denials hold on when limits have lapsed.
    pub dead_man_keeps_denials: bool,
    /// SYNs go on being answered with cookies when limits have lapsed.
    pub dead_man_keeps_cookies: bool,
}

/// Where links and maps are pinned unless configured.
pub const PINS: &str = "/sys/fs/bpf/enforcer";

/// What becomes of what is pinned when the agent is told to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnStop {
    /// It stays in force for the next agent; limits lapse if none comes.
    #[default]
    Keep,
    /// It is detached and forgotten.
    Detach,
}

/// Where in the driver's path XDP programs run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver where it can, else in the stack.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the stack, on any interface.
    Generic,
}

/// Bytes: a power of two from 64 KiB to 64 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SketchMemory(u32);

/// The API gateway.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// Threads that serve. `None`: one per core.
    pub workers: Option<NonZeroUsize>,
    /// How long requests under way may take after SIGTERM.
    pub drain: Duration,
    /// Client connections at once, over all listeners.
    pub max_connections: u32,
    /// Where the node is: endpoints of services in the same zone come first.
    pub zone: Option<Arc<str>>,
    /// What one source may take of it.
    pub per_source: PerSource,
    /// Which requests are refused while a worker has more to do than it gets done.
    pub shedding: Shedding,
    /// Empty: the agent has no gateway.
    pub listeners: Vec<Listener>,
    /// `None`: failed authentication denies nobody in the kernel.
    pub auth_failures: Option<AuthFailures>,
}

/// Where clients connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub name: Name,
    pub address: SocketAddr,
    /// `None`: plain HTTP, on loopback only.
    pub tls: Option<Tls>,
    /// `None`: whoever connects is the client.
    pub proxy_protocol: Option<ProxyProtocol>,
    pub handshakes: Handshakes,
    pub timeouts: Timeouts,
}

/// A listener's certificates, and what it asks of clients. The files existed when this was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// At least one; the first is for clients that ask for none of the names.
    pub certificates: Vec<CertificateFiles>,
    pub clients: Clients,
}

/// Whether clients show certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clients {
    /// None are asked for.
    Off,
    /// Those that are shown must be valid.
    Optional(ClientTrust),
    /// Without a valid one there is no connection.
    Required(ClientTrust),
}

/// Which certificates of clients are valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTrust {
    /// Who vouches for them. At least one.
    pub authorities: Vec<Authority>,
    /// `None`: they cannot be revoked.
    pub revocation: Option<Revocation>,
}

/// How long a client may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For the TLS handshake.
    pub handshake: Duration,
    /// For the head of a request.
    pub header: Duration,
    /// Between requests.
    pub idle: Duration,
}

/// A source whose authentication fails more often than this is denied in the kernel for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthFailures {
    pub rate: Rate,
    pub deny_for: Duration,
    pub ends: Ends,
    /// Credentials that are refused, forged or not: those of a source beyond this rate are not looked at.
    pub attempts: Rate,
}

/// What a source that is denied for its failures has open that ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ends {
    /// Its connections to the gateway.
    #[default]
    Gateway,
    /// Those of other processes too.
    All,
}

/// The controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adapt {
    /// How often it decides.
    pub interval: Duration,
    /// What services should answer within.
    pub latency: Duration,
}

impl Listener {
    /// Who vouches for its clients.
    #[must_use]
    pub fn authorities(&self) -> &[Authority] {
        match self.tls.as_ref().map(|tls| &tls.clients) {
            Some(Clients::Optional(trust) | Clients::Required(trust)) => &trust.authorities,
            Some(Clients::Off) | None => &[],
        }
    }

    fn authorities_mut(&mut self) -> &mut [Authority] {
        match self.tls.as_mut().map(|tls| &mut tls.clients) {
            Some(Clients::Optional(trust) | Clients::Required(trust)) => &mut trust.authorities,
            Some(Clients::Off) | None => &mut [],
        }
    }
}

impl SketchMemory {
    /// In bytes: a power of two.
    #[must_use]
    pub fn bytes(self) -> u32 {
        self.0
    }

    /// `bytes`, if it is a power of two from 64 KiB to 64 MiB.
    #[must_use]
    pub fn new(bytes: u64) -> Option<Self> {
        let bytes = u32::try_from(bytes).ok()?;
        (bytes.is_power_of_two() && (1 << 16..=1 << 26).contains(&bytes)).then_some(Self(bytes))
    }
}

impl Default for SketchMemory {
    fn default() -> Self {
        Self(4 << 20)
    }
}

impl Config {
    /// Reads the configuration. Paths in it are as seen from its own directory.
    ///
    /// # Errors
    /// Everything that is wrong with it, files that it names and that do not exist included.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        let source = files::read_one(path).map_err(|problem| Problems::from(*problem))?;
        let (config, problems) = read(&source);
        match (config, Problems::of(&problems)) {
            (_, Some(problems)) => Err(problems),
            (Some(config), None) => Ok(Self {
                warnings: problems,
                ..config
            }),
            (None, None) => {
                let message = "it is empty".to_owned();
                let hint = "name at least where the policies are: `policies: [/etc/enforcer/policies]`";
                Err(Problem::of_file(path, message, Some(hint.to_owned())).into())
            }
        }
    }
}

/// Reads the configuration and everything that is wrong with it: only without errors does it mean what
/// was written.
pub(crate) fn read(source: &Source) -> (Option<Config>, Vec<Problem>) {
    let sink = Sink::default();
    let documents = load::parse(source, &sink).documents;
    let config = documents.first().and_then(|document| {
        let place = Place::root(document, source, &sink);
        decode(&place).and_then(|raw| build::config(raw, &place))
    });
    if let Some(second) = documents.get(1) {
        Place::root(second, source, &sink).error_with(
            "the configuration is one document, and here another begins",
            "put policies into files of their own, under `policies`",
        );
    }
    (config, sink.into_sorted())
}
