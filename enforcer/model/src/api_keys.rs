//! API keys: secrets that the operator hands out, of which policies hold only the hashes.

use std::sync::Arc;

use http::HeaderName;
use time::OffsetDateTime;

use super::leaf::Name;
use crate::Origin;

/// A document of keys.
#[derive(Clone, Debug)]
pub struct ApiKeys {
    pub name: Name,
    pub origin: Origin,
    /// No two of a set's keys have the same id or hash, whichever document they are in.
    pub keys: Vec<Arc<ApiKey>>,
}

/// A key, and who has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// The document that it is in.
    pub document: Name,
    /// What it is called, since itself it is secret: 1 to 128 visible ASCII characters.
    pub id: Arc<str>,
    /// SHA-256 of the whole key, as it is sent.
    pub hash: [u8; 32],
    /// Whom it stands for: 1 to 256 bytes without control characters.
    pub owner: Arc<str>,
    /// What its owner is entitled to: see `tiers` of limits.
    pub tier: Option<Arc<str>>,
    /// What its owner may do.
    pub roles: Vec<Arc<str>>,
    /// From then on it is refused.
    pub expires: Option<OffsetDateTime>,
}

/// Which API keys do.
#[derive(Clone, Debug)]
pub struct ApiKeyRequirement {
    /// The documents, one of which it must be in. At least one.
    pub keys: Vec<Name>,
    /// The roles that it must have, all of them. Empty: any.
    pub roles: Vec<Arc<str>>,
    /// The field that it is sent in, which services do not see.
    pub header: HeaderName,
}
