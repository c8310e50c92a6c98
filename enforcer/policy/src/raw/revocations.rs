//! Revoked proofs, as they are written.

use schemars::JsonSchema;
use serde::Deserialize;

/// The `spec` of a `Revocations`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Revocations {
    /// What no longer holds.
    ///
    /// - required
    /// - range: up to 100000 in all documents
    /// - example: `[{key: partner-a-2026, reason: found in a repository}]`
    pub entries: Option<Vec<Revocation>>,
}

/// An element of `entries`: what is meant by one of the first five.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// One token.
    ///
    /// - default: one of `token`, `subject`, `client`, `key` and `certificate` is required
    /// - example: `{issuer: corp, jti: 7f3a9c}`
    pub token: Option<RevokedToken>,
    /// All tokens of a subject.
    ///
    /// - default: one of `token`, `subject`, `client`, `key` and `certificate` is required
    /// - example: `{issuer: corp, sub: alice}`
    pub subject: Option<RevokedSubject>,
    /// All tokens of a client.
    ///
    /// - default: one of `token`, `subject`, `client`, `key` and `certificate` is required
    /// - example: `{issuer: corp, clientId: old-app}`
    pub client: Option<RevokedClient>,
    /// An API key, by its id.
    ///
    /// - default: one of `token`, `subject`, `client`, `key` and `certificate` is required
    /// - range: 1 to 2048 bytes
    /// - example: `partner-a-2026`
    pub key: Option<String>,
    /// A client certificate, by `sha256`, or by `serial` and `issuer`.
    ///
    /// - default: one of `token`, `subject`, `client`, `key` and `certificate` is required
    /// - example: `{serial: "4F:0A:91", issuer: "O=Example,CN=authority"}`
    pub certificate: Option<RevokedCertificate>,
    /// Why, for people.
    ///
    /// - default: none
    /// - range: one line of at most 256 bytes
    /// - example: `ticket 4711`
    pub reason: Option<String>,
    /// When the entry ends.
    ///
    /// - default: never
    /// - range: a time (RFC 3339)
    /// - example: `"2099-01-01T00:00:00Z"`
    pub until: Option<String>,
}

/// `token`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokedToken {
    /// Who signed it.
    ///
    /// - required
    /// - range: the name of a document of kind `Issuer`
    /// - example: `corp`
    pub issuer: Option<String>,
    /// Its `jti`.
    ///
    /// - required
    /// - range: 1 to 2048 bytes
    /// - example: `7f3a9c`
    pub jti: Option<String>,
}

/// `subject`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokedSubject {
    /// Who signed them.
    ///
    /// - required
    /// - range: the name of a document of kind `Issuer`
    /// - example: `corp`
    pub issuer: Option<String>,
    /// Their `sub`.
    ///
    /// - required
    /// - range: 1 to 2048 bytes
    /// - example: `alice`
    pub sub: Option<String>,
}

/// `client`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RevokedClient {
    /// Who signed them.
    ///
    /// - required
    /// - range: the name of a document of kind `Issuer`
    /// - example: `corp`
    pub issuer: Option<String>,
    /// Their `client_id`, else `azp`.
    ///
    /// - required
    /// - range: 1 to 2048 bytes
    /// - example: `old-app`
    pub client_id: Option<String>,
}

/// `certificate`: `sha256` alone, or the other two.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokedCertificate {
    /// The SHA-256 of its DER.
    ///
    /// - default: `sha256`, or `serial` and `issuer`, are required
    /// - range: 64 hexadecimal digits, with or without colons
    /// - example: `"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"`
    pub sha256: Option<String>,
    /// Its serial number.
    ///
    /// - default: `sha256`, or `serial` and `issuer`, are required
    /// - range: 1 to 20 bytes in hexadecimal, with or without colons
    /// - example: `"4F:0A:91"`
    pub serial: Option<String>,
    /// Its issuer's name.
    ///
    /// - default: `sha256`, or `serial` and `issuer`, are required
    /// - range: 1 to 2048 bytes
    /// - example: `"O=Example,CN=authority"`
    pub issuer: Option<String>,
}
