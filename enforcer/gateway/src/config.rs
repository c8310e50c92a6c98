//! What the gateway is started with. The agent's configuration file is converted to this.

use enforcer_tls::config::TlsConfig;
use std::{
    net::{IpAddr, SocketAddr},
    num::{NonZeroU64, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;

use super::pressure::Shedding;
use enforcer_model::{Name, Rate};

/// How the gateway runs.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Threads, each with its own sockets, connections and upstream pools. One per core is right.
    pub workers: NonZeroUsize,
    /// Connections of clients, over all workers. Each worker takes its equal share, rounded up.
    pub max_connections: NonZeroUsize,
    /// Where the node is: endpoints of the same zone come first.
    pub zone: Option<Arc<str>>,
    /// What one source (an IPv4 address, an IPv6 /64) may take of the gateway.
    pub per_source: PerSource,
    /// Which requests are refused while a worker has more to do than it gets done.
    pub shedding: Shedding,
    /// How long requests under way may take to finish when the gateway stops.
    pub drain: Duration,
    /// At least one.
    pub listeners: Vec<ListenerConfig>,
}

/// What one source may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerSource {
    /// Connections, over all workers. Each worker grants its equal share, rounded up.
    pub connections: NonZeroUsize,
    /// `None`: as many as there come.
    pub handshakes: Option<HandshakeBudget>,
    /// Credentials that are refused; more are not looked at. `None`: as many as there come.
    pub attempts: Option<Rate>,
}

/// A token bucket of TLS handshakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandshakeBudget {
    pub rate: Rate,
    pub burst: NonZeroU64,
}

/// Which TLS handshakes a listener begins and goes on with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handshakes {
    /// At one time, over all workers; one more ends the oldest of the source that has most. Each worker has its equal share, rounded up. `None`:
    /// 512 for each worker.
    pub concurrent: Option<NonZeroUsize>,
    /// Of one source at this listener. `None`: what [`PerSource::handshakes`] says, for all such listeners together.
    pub per_source: Option<HandshakeBudget>,
}

/// Where the gateway listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// For metrics and messages; unique.
    pub name: Name,
    /// Port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// `None`: plain HTTP/1.1.
    pub tls: Option<TlsConfig>,
    /// `None`: whoever connects is the client.
    pub proxy_protocol: Option<ProxyProtocol>,
    pub handshakes: Handshakes,
    pub timeouts: Timeouts,
}

/// Load balancers that say whose connections they hand on, by the PROXY protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// Where they are. Each of their connections begins with a header; those of others do not.
    pub from: Vec<IpNet>,
}

impl ProxyProtocol {
    /// Whether what `peer` says of the client is believed.
    #[must_use]
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.from.iter().any(|prefix| prefix.contains(&peer))
    }
}

/// How long a client may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the accepted connection to the end of the TLS handshake.
    pub handshake: Duration,
    /// From a request head's first byte to its last; also to the first byte of a connection.
    pub header: Duration,
    /// Between requests, and between two pieces of a response's body.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            header: Duration::from_secs(10),
            idle: Duration::from_secs(60),
        }
    }
}
