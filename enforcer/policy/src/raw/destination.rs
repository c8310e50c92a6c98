//! Where the requests of a rule go, and what is changed on the way.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::OneOrMany;

/// An element of `services`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Weighted {
    /// A service.
    ///
    /// - required
    /// - range: the name of a document of kind `Service`, each once
    /// - example: `orders`
    pub service: Option<String>,
    /// Its part of the requests.
    ///
    /// - default: `1`
    /// - range: 0 to 1000000, in proportion to the others'; not all 0
    /// - example: `95`
    pub weight: Option<u32>,
}

/// `mirror`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// The service that gets the copies.
    ///
    /// - required
    /// - range: the name of a document of kind `Service`
    /// - example: `orders-next`
    pub service: Option<String>,
    /// How many of the requests are copied, at random.
    ///
    /// - default: `100`
    /// - range: 1 to 100 percent
    /// - example: `10`
    pub percent: Option<u32>,
}

/// `redirect`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// The scheme.
    ///
    /// - default: the client's
    /// - example: `https`
    pub scheme: Option<Scheme>,
    /// The host.
    ///
    /// - default: the client's
    /// - range: a name or an address, without port
    /// - example: `www.example.com`
    pub host: Option<String>,
    /// The port.
    ///
    /// - default: the client's; with `scheme` or `host` the scheme's own
    /// - range: 1 to 65535
    /// - example: `8443`
    pub port: Option<u32>,
    /// The path.
    ///
    /// - default: the client's
    /// - example: `{replace: /moved}`
    pub path: Option<PathChange>,
    /// The status of the answer.
    ///
    /// - default: `302`
    /// - range: 301, 302, 303, 307 or 308
    /// - example: `308`
    pub status: Option<u32>,
}

/// How a client is to ask.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    Http,
    Https,
}

/// `rewrite`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    /// The path.
    ///
    /// - default: the client's
    /// - example: `{replacePrefix: /api/v2}`
    pub path: Option<PathChange>,
    /// The host.
    ///
    /// - default: the client's
    /// - range: a name or an address, with or without port
    /// - example: `cart.internal.example.com`
    pub host: Option<String>,
}

/// A path in place of another.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PathChange {
    /// What stands in place of the rule's `match.path.prefix`.
    ///
    /// - default: one of `replacePrefix`, `replace` and `regex` is required
    /// - range: up to 1024 bytes, begins with `/`
    /// - example: `/api/v2`
    pub replace_prefix: Option<String>,
    /// What stands in place of the whole path.
    ///
    /// - default: one of `replacePrefix`, `replace` and `regex` is required
    /// - range: up to 1024 bytes, begins with `/`
    /// - example: `/status`
    pub replace: Option<String>,
    /// What a path as a whole is like that is changed to `with`.
    ///
    /// - default: one of `replacePrefix`, `replace` and `regex` is required
    /// - range: up to 1024 bytes
    /// - example: `"/users/([0-9]+)"`
    pub regex: Option<String>,
    /// What stands in place of a path that is like `regex`: `$1` is its first group.
    ///
    /// - default: none; required beside `regex`
    /// - range: up to 1024 bytes, begins with `/`
    /// - example: `"/u/$1"`
    pub with: Option<String>,
}

/// `requestHeaders`, `responseHeaders`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FieldChanges {
    /// Fields that have these values, whatever they had.
    ///
    /// - default: `{}`
    /// - range: up to 32
    /// - example: `{x-edge: eu-1}`
    pub set: Option<BTreeMap<String, String>>,
    /// Values that fields have besides.
    ///
    /// - default: `{}`
    /// - range: up to 32
    /// - example: `{vary: origin}`
    pub add: Option<BTreeMap<String, String>>,
    /// Names of fields that are taken out, before the others are set and added.
    ///
    /// - default: none
    /// - range: up to 32
    /// - example: `[server, x-powered-by]`
    pub remove: Option<OneOrMany<String>>,
}
