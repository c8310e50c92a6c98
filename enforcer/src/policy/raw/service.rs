//! The `spec` of a `Service`.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{Duration, OneOrMany, Quantity};

/// The `spec` of a `Service`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Service {
    pub(crate) endpoints: Option<Vec<Endpoint>>,
    pub(crate) balance: Option<Balance>,
    pub(crate) health: Option<Health>,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) tls: Option<UpstreamTls>,
    pub(crate) limits: Option<UpstreamLimits>,
    pub(crate) retries: Option<Retries>,
    pub(crate) outliers: Option<Outliers>,
    pub(crate) slow_start: Option<Duration>,
    pub(crate) panic_percent: Option<u32>,
    pub(crate) protocol: Option<Protocol>,
}

/// What endpoints speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// An element of `endpoints`: a URL, or a mapping with `url` and more.
#[derive(Debug)]
pub(crate) enum Endpoint {
    Url(String),
    Full(EndpointFields),
}

/// An endpoint that says more than where it is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EndpointFields {
    pub(crate) url: Option<String>,
    pub(crate) weight: Option<u32>,
    pub(crate) zone: Option<String>,
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EndpointVisitor;
        impl<'de> Visitor<'de> for EndpointVisitor {
            type Value = Endpoint;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a URL like http://10.0.0.7:8080, or {url, weight, zone}")
            }

            fn visit_str<E>(self, text: &str) -> Result<Endpoint, E> {
                Ok(Endpoint::Url(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Endpoint, A::Error> {
                EndpointFields::deserialize(MapAccessDeserializer::new(map)).map(Endpoint::Full)
            }
        }
        deserializer.deserialize_any(EndpointVisitor)
    }
}

/// `tls` of a service.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct UpstreamTls {
    pub(crate) ca: Option<String>,
    pub(crate) server_name: Option<String>,
    pub(crate) spiffe: Option<OneOrMany<String>>,
    pub(crate) certificate: Option<String>,
    pub(crate) key: Option<String>,
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Balance {
    LeastRequest,
    RoundRobin,
    P2c,
    RingHash(HashKey),
    Maglev(HashKey),
}

/// What a request is hashed by.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum HashKey {
    Source,
    Path,
    #[serde(rename = "token.sub")]
    TokenSubject,
    Header(String),
    Cookie(String),
    Query(String),
}

/// Active health checks.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Health {
    pub(crate) path: Option<String>,
    pub(crate) interval: Option<Duration>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) healthy_after: Option<u32>,
    pub(crate) unhealthy_after: Option<u32>,
}

/// `limits` of a service.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpstreamLimits {
    pub(crate) connections: Option<u32>,
    pub(crate) pending: Option<u32>,
    pub(crate) requests: Option<u32>,
    pub(crate) retries: Option<u32>,
    pub(crate) adaptive: Option<AdaptiveRequests>,
}

/// `limits.adaptive` of a service.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AdaptiveRequests {
    pub(crate) floor: Option<u32>,
}

/// `retries`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Retries {
    pub(crate) attempts: Option<u32>,
    pub(crate) on: Option<OneOrMany<Quantity>>,
    pub(crate) per_try: Option<Duration>,
    pub(crate) backoff: Option<Duration>,
    pub(crate) max_backoff: Option<Duration>,
    pub(crate) budget: Option<RetryBudget>,
}

/// `retries.budget`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct RetryBudget {
    pub(crate) percent: Option<u32>,
    pub(crate) per_second: Option<u32>,
}

/// `outliers`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Outliers {
    #[serde(rename = "consecutive5xx")]
    pub(crate) consecutive_5xx: Option<u32>,
    pub(crate) consecutive_failures: Option<u32>,
    pub(crate) success_rate: Option<SuccessRate>,
    pub(crate) interval: Option<Duration>,
    pub(crate) base_ejection: Option<Duration>,
    pub(crate) max_ejection: Option<Duration>,
    pub(crate) max_ejected_percent: Option<u32>,
}

/// `outliers.successRate`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SuccessRate {
    pub(crate) below: Option<u32>,
    pub(crate) requests: Option<u32>,
}
