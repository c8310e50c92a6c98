//! What listeners show, and whom they trust.

use std::{path::PathBuf, sync::Arc};

use enforcer_model::{Attribute, DnsPattern, TrustDomain, flow::AuthorityId};

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
