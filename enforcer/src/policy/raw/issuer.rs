//! The parts of an `Issuer`.

use serde::Deserialize;

use super::Duration;

/// `dpop`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Dpop {
    pub(crate) required: Option<bool>,
    pub(crate) nonce: Option<bool>,
    pub(crate) max_age: Option<Duration>,
}

/// `introspection`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Introspection {
    pub(crate) url: Option<String>,
    pub(crate) ca: Option<String>,
    pub(crate) client_id: Option<String>,
    pub(crate) client_secret_file: Option<String>,
    pub(crate) cache: Option<Duration>,
    pub(crate) negative_cache: Option<Duration>,
    pub(crate) timeout: Option<Duration>,
}
