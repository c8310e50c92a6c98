//! The `spec` of an `Issuer`.

use serde::Deserialize;

use super::{Duration, OneOrMany};

/// The `spec` of an `Issuer`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Issuer {
    pub(crate) issuer: Option<String>,
    pub(crate) jwks: Option<Jwks>,
    pub(crate) audiences: Option<OneOrMany<String>>,
    pub(crate) algorithms: Option<OneOrMany<String>>,
    pub(crate) types: Option<OneOrMany<String>>,
    pub(crate) leeway: Option<Duration>,
    pub(crate) tier: Option<String>,
    pub(crate) roles: Option<String>,
    pub(crate) dpop: Option<Dpop>,
    pub(crate) introspection: Option<Introspection>,
}

/// Where keys are.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Jwks {
    pub(crate) url: Option<String>,
    pub(crate) file: Option<String>,
    pub(crate) refresh: Option<Duration>,
    pub(crate) ca: Option<String>,
}

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
