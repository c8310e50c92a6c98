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
    pub(crate) roles: Option<String>,
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
