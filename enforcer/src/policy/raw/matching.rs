//! What a rule looks at in a request.

use serde::Deserialize;

use super::OneOrMany;

/// `match`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Match {
    pub(crate) path: Option<PathMatch>,
    pub(crate) methods: Option<OneOrMany<String>>,
    pub(crate) headers: Option<Vec<HeaderMatch>>,
    pub(crate) query: Option<Vec<QueryMatch>>,
}

/// `match.path`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PathMatch {
    Prefix(String),
    Exact(String),
    Regex(String),
}

/// An element of `match.headers`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeaderMatch {
    pub(crate) name: Option<String>,
    pub(crate) exact: Option<String>,
    pub(crate) prefix: Option<String>,
    pub(crate) regex: Option<String>,
    pub(crate) present: Option<bool>,
}

/// An element of `match.query`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QueryMatch {
    pub(crate) name: Option<String>,
    pub(crate) exact: Option<String>,
    pub(crate) regex: Option<String>,
    pub(crate) present: Option<bool>,
}
