//! Limits on requests.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Algorithm, Duration, OneOrMany, Prefix, Quantity, Rate};

/// An element of `limits` of a rule or route.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RequestLimit {
    pub(crate) name: Option<String>,
    pub(crate) per: Option<OneOrMany<RequestKey>>,
    pub(crate) count: Option<Counted>,
    pub(crate) cost: Option<Quantity>,
    pub(crate) algorithm: Option<Algorithm>,
    pub(crate) rate: Option<Rate>,
    pub(crate) burst: Option<Quantity>,
    pub(crate) tiers: Option<BTreeMap<String, Tier>>,
    pub(crate) exceed: Option<Exceed>,
}

/// A part of a request limit's key.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RequestKey {
    Source,
    Prefix(Prefix),
    Certificate,
    #[serde(rename = "token.sub")]
    TokenSubject,
    #[serde(rename = "token.client_id")]
    TokenClient,
    #[serde(rename = "apiKey")]
    ApiKey,
    Header(String),
    Tier,
    Rule,
    Route,
    Service,
}

/// What a limit on requests counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Counted {
    Requests,
    ResponseBytes,
}

/// A value of `tiers`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tier {
    pub(crate) rate: Option<Rate>,
    pub(crate) burst: Option<Quantity>,
}

/// What happens to a request over its limit.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Exceed {
    Reject,
    Queue(Duration),
}
