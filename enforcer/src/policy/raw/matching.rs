//! What a rule looks at in a request beside its path and method.

use serde::Deserialize;

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
