//! Where the requests of a rule go, and what is changed on the way.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::OneOrMany;

/// An element of `services`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Weighted {
    /// A service.
    ///
    /// - required
    /// - range: the name of a document of kind `Service`, each once
    /// - example: `orders`
    pub(crate) service: Option<String>,
    /// Its part of the requests.
    ///
    /// - default: `1`
    /// - range: 0 to 1000000, in proportion to the others'; not all 0
    /// - example: `95`
    pub(crate) weight: Option<u32>,
}

/// `mirror`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mirror {
    /// The service that gets the copies.
    ///
    /// - required
    /// - range: the name of a document of kind `Service`
    /// - example: `orders-next`
    pub(crate) service: Option<String>,
    /// How many of the requests are copied, at random.
    ///
    /// - default: `100`
    /// - range: 1 to 100 percent
    /// - example: `10`
    pub(crate) percent: Option<u32>,
}

/// `redirect`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Redirect {
    /// The scheme.
    ///
    /// - default: the client's
    /// - example: `https`
    pub(crate) scheme: Option<Scheme>,
    /// The host.
    ///
    /// - default: the client's
    /// - range: a name or an address, without port
    /// - example: `www.example.com`
    pub(crate) host: Option<String>,
    /// The port.
    ///
    /// - default: the client's; with `scheme` or `host` the scheme's own
    /// - range: 1 to 65535
    /// - example: `8443`
    pub(crate) port: Option<u32>,
    /// The path.
    ///
    /// - default: the client's
    /// - example: `{replace: /moved}`
    pub(crate) path: Option<PathChange>,
    /// The status of the answer.
    ///
    /// - default: `302`
    /// - range: 301, 302, 303, 307 or 308
    /// - example: `308`
    pub(crate) status: Option<u32>,
}

/// How a client is to ask.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scheme {
    Http,
    Https,
}

/// `rewrite`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rewrite {
    /// The path.
    ///
    /// - default: the client's
    /// - example: `{replacePrefix: /api/v2}`
    pub(crate) path: Option<PathChange>,
    /// The host.
    ///
    /// - default: the client's
    /// - range: a name or an address, with or without port
    /// - example: `cart.internal.example.com`
    pub(crate) host: Option<String>,
}

/// A path in place of another.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct PathChange {
    /// What stands in place of the rule's `match.path.prefix`.
    ///
    /// - default: one of `replacePrefix`, `replace` and `regex` is required
    /// - range: up to 1024 bytes, begins with `/`
    /// - example: `/api/v2`
    pub(crate) replace_prefix: Option<String>,
    /// What stands in place of the whole path.
    ///
    /// - default: one of `replacePrefix`, `replace` and `regex` is required
    /// - range: up to 1024 bytes, begins with `/`
    /// - example: `/status`
    pub(crate) replace: Option<String>,
    /// What a path as a whole is like that is changed to `with`.
    ///
    /// - default: one of `replacePrefix`, `replace` and `regex` is required
    /// - range: up to 1024 bytes
    /// - example: `"/users/([0-9]+)"`
    pub(crate) regex: Option<String>,
    /// What stands in place of a path that is like `regex`: `$1` is its first group.
    ///
    /// - default: none; required beside `regex`
    /// - range: up to 1024 bytes, begins with `/`
    /// - example: `"/u/$1"`
    pub(crate) with: Option<String>,
}

/// `requestHeaders`, `responseHeaders`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FieldChanges {
    /// Fields that have these values, whatever they had.
    ///
    /// - default: `{}`
    /// - range: up to 32
    /// - example: `{x-edge: eu-1}`
    pub(crate) set: Option<BTreeMap<String, String>>,
    /// Values that fields have besides.
    ///
    /// - default: `{}`
    /// - range: up to 32
    /// - example: `{vary: origin}`
    pub(crate) add: Option<BTreeMap<String, String>>,
    /// Names of fields that are taken out, before the others are set and added.
    ///
    /// - default: none
    /// - range: up to 32
    /// - example: `[server, x-powered-by]`
    pub(crate) remove: Option<OneOrMany<String>>,
}
