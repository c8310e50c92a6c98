//! Connections, and who is behind them.

use std::{fmt, net::SocketAddr, path::PathBuf, sync::Arc};

use ipnet::IpNet;

use crate::Name;

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

/// What tells authorities apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AuthorityId {
    /// As policies name it.
    Name(Name),
    /// By its file, where it is one of several and has no name.
    File(PathBuf),
}

impl AuthorityId {
    /// The name that it has for policies and services.
    #[must_use]
    pub fn name(&self) -> Option<&Name> {
        match self {
            Self::Name(name) => Some(name),
            Self::File(_) => None,
        }
    }
}

/// Names hold no colon, so the two are never the same.
impl fmt::Display for AuthorityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}
