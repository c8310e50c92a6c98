//! API keys, as they are written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::OneOrMany;

/// The `spec` of an `ApiKeys`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKeys {
    /// The keys.
    ///
    /// - required
    /// - range: up to 100000 in all documents
    /// - example: `[{id: partner-a-2026, hash: "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", owner: partner-a}]`
    pub keys: Option<Vec<ApiKey>>,
}

/// An element of `keys`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// What the key is called.
    ///
    /// - required
    /// - range: 1 to 128 visible ASCII characters, unique in all documents
    /// - example: `partner-a-2026`
    pub id: Option<String>,
    /// The SHA-256 of the key.
    ///
    /// - required
    /// - range: `sha256:` and 64 hexadecimal digits
    /// - example: `"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"`
    pub hash: Option<String>,
    /// Whom it stands for.
    ///
    /// - required
    /// - range: 1 to 256 bytes of one line
    /// - example: `partner-a`
    pub owner: Option<String>,
    /// What the owner is entitled to: see `tiers` of limits.
    ///
    /// - default: none
    /// - range: 1 to 63 of a-z, 0-9 and -
    /// - example: `gold`
    pub tier: Option<String>,
    /// What the owner may do: a note for people.
    ///
    /// - default: none
    /// - range: 1 to 128 visible ASCII characters each
    /// - example: `[reader]`
    pub roles: Option<OneOrMany<String>>,
    /// From when on it is refused.
    ///
    /// - default: never
    /// - range: a time (RFC 3339)
    /// - example: `"2099-01-01T00:00:00Z"`
    pub expires: Option<String>,
}

/// `require.apiKey`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RequireApiKey {
    /// Documents of which one must have the key.
    ///
    /// - required
    /// - range: 1 to 32 names of documents of kind `ApiKeys`
    /// - example: `[partners]`
    pub keys: Option<OneOrMany<String>>,
    /// Roles of which the key must have all.
    ///
    /// - default: none
    /// - example: `[billing]`
    pub roles: Option<OneOrMany<String>>,
    /// The header field that carries it.
    ///
    /// - default: `x-api-key`
    /// - range: the name of a field that means nothing else
    /// - example: `x-partner-key`
    pub header: Option<String>,
}
