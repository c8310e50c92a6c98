//! API keys, as they are written.

use serde::Deserialize;

use super::OneOrMany;

/// The `spec` of an `ApiKeys`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApiKeys {
    pub(crate) keys: Option<Vec<ApiKey>>,
}

/// An element of `keys`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApiKey {
    pub(crate) id: Option<String>,
    pub(crate) hash: Option<String>,
    pub(crate) owner: Option<String>,
    pub(crate) tier: Option<String>,
    pub(crate) roles: Option<OneOrMany<String>>,
    pub(crate) expires: Option<String>,
}

/// `require.apiKey`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RequireApiKey {
    pub(crate) keys: Option<OneOrMany<String>>,
    pub(crate) roles: Option<OneOrMany<String>>,
    pub(crate) header: Option<String>,
}
