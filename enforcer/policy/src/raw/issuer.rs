//! The `spec` of an `Issuer`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Duration, OneOrMany, Rate};

/// The `spec` of an `Issuer`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// What tokens say in `iss`, exactly.
    ///
    /// - required
    /// - range: 1 to 2048 characters without spaces
    /// - example: `https://idp.example.com`
    pub issuer: Option<String>,
    /// Where its public keys are.
    ///
    /// - default: one of `jwks` and `introspection` is required
    /// - example: `{url: "https://idp.example.com/jwks"}`
    pub jwks: Option<Jwks>,
    /// Of which tokens must name one in `aud`.
    ///
    /// - required
    /// - range: 1 to 2048 characters without spaces each
    /// - example: `[orders]`
    pub audiences: Option<OneOrMany<String>>,
    /// By which tokens may be signed.
    ///
    /// - default: none; required beside `jwks`
    /// - range: `ES256`, `ES384`, `RS256`, `RS384`, `RS512`, `PS256`, `PS384`, `PS512`, `EdDSA`
    /// - example: `[ES256, RS256]`
    pub algorithms: Option<OneOrMany<String>>,
    /// What tokens say in `typ`.
    ///
    /// - default: `at+jwt`
    /// - range: media types; only beside `jwks`
    /// - example: `[at+jwt, jwt]`
    pub types: Option<OneOrMany<String>>,
    /// What its tokens must have beside what every token must.
    ///
    /// - default: nothing
    /// - range: `rfc9068`; only beside `jwks` and without `types`
    /// - example: `rfc9068`
    pub profile: Option<Profile>,
    /// How far clocks may differ.
    ///
    /// - default: `60s`
    /// - range: 0s to 5m
    /// - example: `10s`
    pub leeway: Option<Duration>,
    /// The path of the claim that says a client's tier.
    ///
    /// - default: none
    /// - range: `a.b`, a JSON pointer, or a URI
    /// - example: `tier`
    pub tier: Option<String>,
    /// The path of the claim that says roles.
    ///
    /// - default: `roles`
    /// - range: `a.b`, a JSON pointer, or a URI
    /// - example: `realm_access.roles`
    pub roles: Option<String>,
    /// How proofs of possession are judged (RFC 9449).
    ///
    /// - default: `{}`
    /// - example: `{required: true}`
    pub dpop: Option<Dpop>,
    /// Whom tokens are asked about (RFC 7662).
    ///
    /// - default: one of `jwks` and `introspection` is required
    /// - example: `{url: "https://idp.example.com/introspect", clientId: gateway, clientSecretFile: idp-secret}`
    pub introspection: Option<Introspection>,
}

/// What tokens must have.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// All that the standard of access tokens demands (RFC 9068, section 2.2).
    Rfc9068,
}

/// Where keys are.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Jwks {
    /// Where they are read from.
    ///
    /// - default: one of `url` and `file` is required
    /// - range: https, or http on loopback
    /// - example: `"https://idp.example.com/jwks"`
    pub url: Option<String>,
    /// A file of them, as seen from the policy's file.
    ///
    /// - default: one of `url` and `file` is required
    /// - example: `jwks.json`
    pub file: Option<String>,
    /// How often they are read again.
    ///
    /// - default: `10m`
    /// - range: 10s to 1d
    /// - example: `1h`
    pub refresh: Option<Duration>,
    /// A PEM file of the authorities that vouch for `url`.
    ///
    /// - default: the system's
    /// - range: only beside a `url` of https
    /// - example: `idp-ca.pem`
    pub ca: Option<String>,
}

/// `dpop`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Dpop {
    /// Whether tokens that are bound to no key are refused.
    ///
    /// - default: `false`
    /// - example: `true`
    pub required: Option<bool>,
    /// Whether proofs must have a nonce of the gateway.
    ///
    /// - default: `false`
    /// - example: `true`
    pub nonce: Option<bool>,
    /// How long a proof may be used.
    ///
    /// - default: `60s`
    /// - range: 1s to 10m
    /// - example: `30s`
    pub max_age: Option<Duration>,
}

/// `introspection`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Introspection {
    /// Where it is asked.
    ///
    /// - required
    /// - range: https, or http on loopback
    /// - example: `"https://idp.example.com/introspect"`
    pub url: Option<String>,
    /// A PEM file of the authorities that vouch for `url`.
    ///
    /// - default: the system's
    /// - range: only beside a `url` of https
    /// - example: `idp-ca.pem`
    pub ca: Option<String>,
    /// What the gateway is registered as.
    ///
    /// - required
    /// - range: 1 to 2048 characters without spaces
    /// - example: `gateway`
    pub client_id: Option<String>,
    /// A file of its secret alone, as seen from the policy's file.
    ///
    /// - required
    /// - example: `idp-secret`
    pub client_secret_file: Option<String>,
    /// How long a token is believed to hold.
    ///
    /// - default: `60s`
    /// - range: 1s to 1h
    /// - example: `30s`
    pub cache: Option<Duration>,
    /// How long one is believed not to.
    ///
    /// - default: `5s`
    /// - range: 1s to 1m
    /// - example: `10s`
    pub negative_cache: Option<Duration>,
    /// How long an answer may take.
    ///
    /// - default: `2s`
    /// - range: 100ms to 10s
    /// - example: `1s`
    pub timeout: Option<Duration>,
    /// How many tokens that are not known yet one source may have asked about.
    ///
    /// - default: `20/s`
    /// - range: requests; an IPv4 address or IPv6 /64, wider prefixes 4 and 16 times that
    /// - example: `5/s`
    pub rate: Option<Rate>,
    /// What its tokens look like, as a regular expression for the whole of one.
    ///
    /// - default: 16 characters at least
    /// - range: a regular expression
    /// - example: `at_[A-Za-z0-9]{40}`
    pub pattern: Option<String>,
}
