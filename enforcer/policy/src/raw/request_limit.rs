//! Limits on requests.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Algorithm, Duration, OneOrMany, Prefix, Quantity, Rate};

/// An element of `limits` of a rule or route.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestLimit {
    /// What metrics and answers call it.
    ///
    /// - default: `ROUTE-RULE-LIMIT` by position, from 0
    /// - range: 1 to 63 of a-z, 0-9 and -; unique in the route
    /// - example: `reads`
    pub name: Option<String>,
    /// Who shares a limiter; several together are the key.
    ///
    /// - required
    /// - range: what a key is taken from the rule must require; `rule` of rules alone, `route` beside `rules` alone
    /// - example: `source`
    pub per: Option<OneOrMany<RequestKey>>,
    /// What is taken from the limit.
    ///
    /// - default: `requests`
    /// - example: `requests`
    pub count: Option<Counted>,
    /// What each request takes.
    ///
    /// - default: `1`
    /// - range: 1 to 1000000 requests, not above `burst`; only with `count: requests`
    /// - example: `20`
    pub cost: Option<Quantity>,
    /// How it is counted.
    ///
    /// - default: `token-bucket`
    /// - example: `sliding-window`
    pub algorithm: Option<Algorithm>,
    /// How much is admitted, and in which time.
    ///
    /// - required
    /// - range: a rate of requests, or of bytes with `count: response-bytes`
    /// - example: `100/m`
    pub rate: Option<Rate>,
    /// How much may come at once; windows have none.
    ///
    /// - default: the amount of the rate
    /// - range: requests, or a size in bytes with `count: response-bytes`; from 1
    /// - example: `1000`
    pub burst: Option<Quantity>,
    /// What clients of these tiers have in place of `rate` and `burst`.
    ///
    /// - default: `{}`
    /// - range: up to 16
    /// - example: `{gold: {rate: 1000/m}}`
    pub tiers: Option<BTreeMap<String, Tier>>,
    /// What becomes of requests over the limit.
    ///
    /// - default: `reject`
    /// - example: `{queue: 200ms}`
    pub exceed: Option<Exceed>,
}

/// A part of a request limit's key.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RequestKey {
    Source,
    /// The prefix of the peer's address.
    ///
    /// - example: `{ipv4: 24, ipv6: 48}`
    #[schemars(schema_with = "super::schema::one_prefix")]
    Prefix(Prefix),
    Certificate,
    #[serde(rename = "token.sub")]
    TokenSubject,
    #[serde(rename = "token.client_id")]
    TokenClient,
    #[serde(rename = "apiKey")]
    ApiKey,
    /// The value of a header field; without it the source.
    ///
    /// - range: the name of a field
    /// - example: `x-team`
    Header(String),
    Tier,
    Rule,
    Route,
    Service,
}

/// What a limit on requests counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Counted {
    Requests,
    ResponseBytes,
}

/// A value of `tiers`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// How much is admitted, and in which time.
    ///
    /// - required
    /// - range: a rate of requests, or of bytes with `count: response-bytes`
    /// - example: `1000/m`
    pub rate: Option<Rate>,
    /// How much may come at once; windows have none.
    ///
    /// - default: the amount of the rate
    /// - range: requests, or a size in bytes with `count: response-bytes`; from 1
    /// - example: `2000`
    pub burst: Option<Quantity>,
}

/// What happens to a request over its limit.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Exceed {
    Reject,
    /// For how long a request waits for its turn, if it comes in that time.
    ///
    /// - range: 1ms to 5s
    /// - example: `200ms`
    Queue(Duration),
}
