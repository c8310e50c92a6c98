//! What the gateway tells the rest of the agent, as it happens, from the worker that it happens on.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;

use super::config::AuthorityId;
use crate::{
    audit::Audit,
    policy::model::Name,
    supervision::{Part, Reader},
};

/// A TCP connection as its packets name it when they arrive. IPv4-mapped addresses are unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// The peer, as the kernel sees it: never taken from a header.
    pub peer: SocketAddr,
    /// The local end.
    pub local: SocketAddr,
}

/// Who has proved to be behind a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A client certificate.
    Certificate(Certified),
    /// A token: its issuer's policy name and its `sub` (or `client_id`).
    Token { issuer: Name, subject: Arc<str> },
    /// An API key: whom it stands for, and its id.
    ApiKey { owner: Arc<str>, id: Arc<str> },
}

/// Whom a client certificate names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Certified {
    /// Its SPIFFE identity, else its subject.
    pub name: Arc<str>,
    /// Who vouches for it, where the configuration tells several apart: the same name of another is somebody else's.
    pub authority: Option<AuthorityId>,
}

impl<T: Into<Arc<str>>> From<T> for Certified {
    fn from(name: T) -> Self {
        Self {
            name: name.into(),
            authority: None,
        }
    }
}

impl fmt::Display for Certified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.authority {
            None => f.write_str(&self.name),
            Some(authority) => write!(f, "{} of {authority}", self.name),
        }
    }
}

/// As `explain` shows it.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(certified) => write!(f, "certificate {certified}"),
            Self::Token { issuer, subject } => write!(f, "token {subject} of {issuer}"),
            Self::ApiKey { owner, id } => write!(f, "api-key {id} of {owner}"),
        }
    }
}

/// What the kernel takes a connection's packets for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A verified client's: they are charged to the identity's own budget.
    Verified,
    /// Anybody's: nobody has proved anything, the kernel had no room, or is not asked.
    Unverified,
}

impl Class {
    /// Its name in records.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Unverified => "unverified",
        }
    }
}

/// Whose connections are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// Those from a prefix.
    Source(IpNet),
    /// Of those, the ones that a load balancer has handed on: the kernel does not see whose they are.
    Named {
        prefix: IpNet,
        /// Clients that are left alone.
        except: Arc<[IpNet]>,
    },
    /// Those from one address and port.
    Endpoint(SocketAddr),
    /// Those behind which somebody has proved to be, by the name that `explain` shows.
    Identity(Arc<str>),
}

/// As the audit log shows it.
impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(prefix) | Self::Named { prefix, .. } => prefix.fmt(f),
            Self::Endpoint(peer) => peer.fmt(f),
            Self::Identity(name) => f.write_str(name),
        }
    }
}

impl Whom {
    /// Whether a connection is one of them.
    #[must_use]
    pub fn is(&self, flow: &Flow, identity: Option<&Identity>) -> bool {
        match self {
            Self::Source(prefix) => prefix.contains(&flow.peer.ip()),
            // By the client's name alone, which no flow has.
            Self::Named { .. } => false,
            Self::Endpoint(peer) => flow.peer == *peer,
            Self::Identity(name) => identity.is_some_and(|identity| identity.to_string() == **name),
        }
    }
}

/// Why a request was not let through, or that it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    Allowed,
    NoRoute,
    /// No proof was given, or it did not hold: 401, or a TLS handshake that failed on the certificate.
    Unauthenticated,
    /// The proof holds and does not suffice: 403.
    Forbidden,
    /// 429.
    Limited,
    /// Malformed, too large, too slow.
    Invalid,
    /// No endpoint, or it failed or timed out: 502, 503, 504.
    Upstream,
    /// The service has as many requests or connections as it may: 503.
    Saturated,
    /// The worker has more to do than it gets done, and others come first: 503.
    Shed,
}

/// What became of one request.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    pub source: IpAddr,
    /// That it came to.
    pub port: u16,
    pub route: Option<&'a Name>,
    pub service: Option<&'a Name>,
    pub status: u16,
    pub verdict: Verdict,
    /// From when the service had the whole request to the response's head, so that it says how fast
    /// the service is, whatever the client does. `None` if the request did not get so far.
    pub latency: Option<Duration>,
    /// The client has sent a body, whose size it determines and with it what the service has to do.
    pub has_body: bool,
}

/// Listens to the gateway. Calls come from every worker and must not block.
pub trait Observer: Send + Sync + 'static {
    /// The peer has proved who it is. Called once per connection, at the first proof. What the kernel takes it for now.
    fn verified(&self, flow: Flow, identity: &Identity) -> Class;
    /// The connection is gone; only for those that were [`Self::verified`].
    fn closed(&self, flow: Flow);
    /// A credential was forged or guessed: a bad signature, a certificate of nobody, an unknown key. Not for one that is
    /// missing, has expired, or does not suffice.
    fn authentication_failed(&self, source: IpAddr);
    /// The same, of a client that the load balancer at `proxy` has named: no packets come from it.
    fn authentication_failed_behind(&self, proxy: IpAddr);
    /// A request is finished.
    fn finished(&self, outcome: Outcome<'_>);
    /// Why `client` may not connect, in words, if it may not. Asked about clients that load balancers name, whose
    /// packets the kernel does not see; once for each of their connections.
    fn denied(&self, client: IpAddr) -> Option<Arc<str>>;
    /// Where what becomes of requests is recorded, if anywhere.
    fn audit(&self) -> Option<&Audit> {
        None
    }
    /// What a part of the gateway says by that it makes progress. Unless somebody wants to know, nobody does.
    fn part(&self, _name: &str) -> Part {
        Part::unwatched()
    }
    /// What a thread that reads files says by that it does.
    fn reader(&self, what: &'static str) -> Reader {
        Reader::new(what)
    }
}
