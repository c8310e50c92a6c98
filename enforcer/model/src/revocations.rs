//! Proofs that hold no more, although nothing in themselves says so.

use std::{fmt, sync::Arc};

use time::OffsetDateTime;

use super::leaf::Name;
use crate::Origin;

/// A document of revoked proofs.
#[derive(Clone, Debug)]
pub struct Revocations {
    pub name: Name,
    pub origin: Origin,
    pub entries: Vec<Revocation>,
}

/// A revoked proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    pub what: Credential,
    pub reason: Option<Arc<str>>,
    /// Afterwards the entry no longer holds.
    pub until: Option<OffsetDateTime>,
}

/// Which proofs are meant. An issuer of tokens is the policy's name of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Credential {
    /// One token, by its `jti`.
    Token { issuer: Name, id: Arc<str> },
    /// All tokens of a `sub`.
    Subject { issuer: Name, subject: Arc<str> },
    /// All tokens of a `client_id`.
    Client { issuer: Name, client: Arc<str> },
    /// An API key, by its id.
    Key(Arc<str>),
    /// A client certificate, by the SHA-256 of its DER.
    Certificate([u8; 32]),
    /// A client certificate, by its issuer's name and its serial number: big endian, without zeros in front.
    Serial { issuer: Arc<str>, serial: Arc<[u8]> },
}

/// As `enforcer revoke` takes it.
impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = |f: &mut fmt::Formatter<'_>, bytes: &[u8]| {
            bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
        };
        match self {
            Self::Token { issuer, id } => write!(f, "token {id} of {issuer}"),
            Self::Subject { issuer, subject } => write!(f, "subject {subject} of {issuer}"),
            Self::Client { issuer, client } => write!(f, "client {client} of {issuer}"),
            Self::Key(id) => write!(f, "api-key {id}"),
            Self::Certificate(fingerprint) => {
                f.write_str("certificate sha256:")?;
                hex(f, fingerprint)
            }
            Self::Serial { issuer, serial } => {
                f.write_str("certificate ")?;
                hex(f, serial)?;
                write!(f, " of {issuer}")
            }
        }
    }
}
