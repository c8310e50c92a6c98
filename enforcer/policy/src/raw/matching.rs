//! What a rule looks at in a request.

use schemars::JsonSchema;
use serde::Deserialize;

use super::OneOrMany;

/// `match`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// The path, as it is after normalisation.
    ///
    /// - default: `{prefix: /}`
    /// - example: `{exact: /status}`
    pub path: Option<PathMatch>,
    /// The methods.
    ///
    /// - default: any
    /// - range: names in capitals, but `CONNECT`
    /// - example: `[GET, HEAD]`
    pub methods: Option<OneOrMany<String>>,
    /// What header fields must be; all must hold.
    ///
    /// - default: `[]`
    /// - range: up to 16, each with one of `exact`, `prefix`, `regex` and `present`
    /// - example: `[{name: x-canary, exact: "yes"}]`
    pub headers: Option<Vec<HeaderMatch>>,
    /// What parameters of the query must be; all must hold.
    ///
    /// - default: `[]`
    /// - range: up to 16, each with one of `exact`, `regex` and `present`
    /// - example: `[{name: version, present: false}]`
    pub query: Option<Vec<QueryMatch>>,
}

/// `match.path`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PathMatch {
    /// This path and all below it, by whole segments.
    ///
    /// - range: begins with `/`
    /// - example: `/v1/orders`
    Prefix(String),
    /// This path alone.
    ///
    /// - range: begins with `/`
    /// - example: `/status`
    Exact(String),
    /// Paths that are like it as a whole.
    ///
    /// - range: up to 1024 bytes; 64 such rules in a route
    /// - example: `"/v[0-9]+/orders"`
    Regex(String),
}

/// An element of `match.headers`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderMatch {
    /// The name of the field.
    ///
    /// - required
    /// - range: none that the gateway removes or that is about a connection
    /// - example: `x-canary`
    pub name: Option<String>,
    /// The whole value.
    ///
    /// - default: one of `exact`, `prefix`, `regex` and `present` is required
    /// - range: text
    /// - example: `"yes"`
    pub exact: Option<String>,
    /// What the value begins with.
    ///
    /// - default: one of `exact`, `prefix`, `regex` and `present` is required
    /// - range: text that is not empty
    /// - example: `Shop/`
    pub prefix: Option<String>,
    /// What the value as a whole is like.
    ///
    /// - default: one of `exact`, `prefix`, `regex` and `present` is required
    /// - range: up to 1024 bytes
    /// - example: `"Shop/[0-9.]+"`
    pub regex: Option<String>,
    /// Whether the field is there.
    ///
    /// - default: one of `exact`, `prefix`, `regex` and `present` is required
    /// - example: `true`
    pub present: Option<bool>,
}

/// An element of `match.query`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueryMatch {
    /// The name of the parameter, decoded.
    ///
    /// - required
    /// - range: text that is not empty
    /// - example: `version`
    pub name: Option<String>,
    /// The whole value, decoded.
    ///
    /// - default: one of `exact`, `regex` and `present` is required
    /// - range: text
    /// - example: `"2"`
    pub exact: Option<String>,
    /// What the value as a whole is like.
    ///
    /// - default: one of `exact`, `regex` and `present` is required
    /// - range: up to 1024 bytes
    /// - example: `"[0-9]+"`
    pub regex: Option<String>,
    /// Whether the parameter is there.
    ///
    /// - default: one of `exact`, `regex` and `present` is required
    /// - example: `false`
    pub present: Option<bool>,
}
