//! Revoked proofs, as they are written.

use serde::Deserialize;

/// The `spec` of a `Revocations`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Revocations {
    pub(crate) entries: Option<Vec<Revocation>>,
}

/// An element of `entries`: what is meant by one of the first five.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Revocation {
    pub(crate) token: Option<RevokedToken>,
    pub(crate) subject: Option<RevokedSubject>,
    pub(crate) client: Option<RevokedClient>,
    pub(crate) key: Option<String>,
    pub(crate) certificate: Option<RevokedCertificate>,
    pub(crate) reason: Option<String>,
    pub(crate) until: Option<String>,
}

/// `token`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RevokedToken {
    pub(crate) issuer: Option<String>,
    pub(crate) jti: Option<String>,
}

/// `subject`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RevokedSubject {
    pub(crate) issuer: Option<String>,
    pub(crate) sub: Option<String>,
}

/// `client`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct RevokedClient {
    pub(crate) issuer: Option<String>,
    pub(crate) client_id: Option<String>,
}

/// `certificate`: `sha256` alone, or the other two.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RevokedCertificate {
    pub(crate) sha256: Option<String>,
    pub(crate) serial: Option<String>,
    pub(crate) issuer: Option<String>,
}
