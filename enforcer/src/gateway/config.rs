//! What the gateway is started with. The agent's configuration file is converted to this.

use enforcer_model::flow::AuthorityId;
use std::{
    net::{IpAddr, SocketAddr},
    num::{NonZeroU64, NonZeroUsize},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;

use super::pressure::Shedding;
use enforcer_model::{Attribute, DnsPattern, Name, Rate, TrustDomain};

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

/// A listener's certificates and what it asks of clients. All files are PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// At least one; the first is for clients that ask for none of the names.
    pub certificates: Vec<CertificateFiles>,
    /// Who vouches for clients. At least one, unless `client_certificates` is off.
    pub authorities: Vec<Authority>,
    pub client_certificates: ClientCertificates,
    /// `None`: certificates of clients cannot be revoked.
    pub revocation: Option<Revocation>,
}

/// Who vouches for clients, and for which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// `None`: nothing tells it from others.
    pub id: Option<AuthorityId>,
    /// A PEM file.
    pub file: PathBuf,
    /// `None`: it may vouch for anybody.
    pub bounds: Option<Bounds>,
}

/// Whom an authority may vouch for. Of a certificate that it vouches for, other names are not used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// SPIFFE identities of these domains.
    pub trust_domains: Vec<TrustDomain>,
    /// These DNS names.
    pub names: Vec<DnsPattern>,
    /// Subjects whose attributes have these values; of each attribute at least one, and no other. Attributes that are
    /// not named here are not used. `None`: any value.
    pub subject: Vec<(Attribute, Option<Vec<Arc<str>>>)>,
}

/// A certificate of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate and its intermediates, leaf first.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// How it is found out whether a client's certificate has been revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Files of revocation lists (CRLs): PEM, or one list as DER.
    pub lists: Vec<PathBuf>,
    /// What becomes of a certificate for whose issuer there is no list.
    pub unknown: Unsure,
    /// What becomes of a certificate whose issuer's list should have been replaced already.
    pub expired: Unsure,
    pub depth: Depth,
}

/// Whether a certificate that may have been revoked is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unsure {
    #[default]
    Deny,
    Allow,
}

/// Which certificates of a chain are looked for in revocation lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Depth {
    /// All but the authority that is trusted.
    #[default]
    Chain,
    /// The client's own.
    Leaf,
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// No handshake without one.
    Required,
    /// Asked for; one that does not verify fails the handshake.
    Optional,
    /// Not asked for.
    #[default]
    Off,
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
