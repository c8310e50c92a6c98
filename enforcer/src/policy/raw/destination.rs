//! Where the requests of a rule go, and what is changed on the way.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::OneOrMany;

/// An element of `services`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Weighted {
    pub(crate) service: Option<String>,
    pub(crate) weight: Option<u32>,
}

/// `mirror`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mirror {
    pub(crate) service: Option<String>,
    pub(crate) percent: Option<u32>,
}

/// `redirect`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Redirect {
    pub(crate) scheme: Option<Scheme>,
    pub(crate) host: Option<String>,
    pub(crate) port: Option<u32>,
    pub(crate) path: Option<PathChange>,
    pub(crate) status: Option<u32>,
}

/// How a client is to ask.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scheme {
    Http,
    Https,
}

/// `rewrite`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rewrite {
    pub(crate) path: Option<PathChange>,
    pub(crate) host: Option<String>,
}

/// A path in place of another.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct PathChange {
    pub(crate) replace_prefix: Option<String>,
    pub(crate) replace: Option<String>,
    pub(crate) regex: Option<String>,
    pub(crate) with: Option<String>,
}

/// `requestHeaders`, `responseHeaders`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FieldChanges {
    pub(crate) set: Option<BTreeMap<String, String>>,
    pub(crate) add: Option<BTreeMap<String, String>>,
    pub(crate) remove: Option<OneOrMany<String>>,
}
