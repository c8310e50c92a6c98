//! The `spec` of a `Service`.

use std::fmt;

use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{Duration, OneOrMany, Quantity};

/// The `spec` of a `Service`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Service {
    /// Where requests go.
    ///
    /// - required
    /// - range: 1 to 1024
    /// - example: `["http://10.0.0.7:8080", {url: "http://[2001:db8::7]:8080", weight: 2}]`
    pub endpoints: Option<Vec<Endpoint>>,
    /// How an endpoint is chosen.
    ///
    /// - default: `least-request`
    /// - example: `{maglev: {cookie: sid}}`
    pub balance: Option<Balance>,
    /// Requests by which endpoints are checked.
    ///
    /// - default: none; they are always used
    /// - range: not with `protocol: http2`
    /// - example: `{path: /healthz, interval: 5s}`
    pub health: Option<Health>,
    /// How long a connection may take to come about.
    ///
    /// - default: `1s`
    /// - range: 1ms to 1m
    /// - example: `500ms`
    pub connect_timeout: Option<Duration>,
    /// How `https` endpoints are spoken to.
    ///
    /// - default: `{}`
    /// - range: only with endpoints of `https`
    /// - example: `{serverName: orders.internal}`
    pub tls: Option<UpstreamTls>,
    /// How much of it is used at once.
    ///
    /// - default: `{}`
    /// - example: `{connections: 200, pending: 100}`
    pub limits: Option<UpstreamLimits>,
    /// When requests are sent again.
    ///
    /// - default: `{}`
    /// - example: `{attempts: 1, on: [reset, 503]}`
    pub retries: Option<Retries>,
    /// When endpoints at which requests fail are left alone; `{}`: by the defaults.
    ///
    /// - default: nothing is concluded from requests
    /// - example: `{consecutive5xx: 5}`
    pub outliers: Option<Outliers>,
    /// How long an endpoint that is new, or back, takes to get all of its share.
    ///
    /// - default: none
    /// - range: 1s to 1h
    /// - example: `30s`
    pub slow_start: Option<Duration>,
    /// Below which share of usable endpoints all are used, whatever is known of them.
    ///
    /// - default: `0`
    /// - range: 0 to 100 percent; 0: never
    /// - example: `30`
    pub panic_percent: Option<u32>,
    /// What endpoints speak: `http2` is without TLS, by prior knowledge.
    ///
    /// - default: `http1`
    /// - range: `http2` not with endpoints of `https`, nor with `health`
    /// - example: `http2`
    pub protocol: Option<Protocol>,
}

/// What endpoints speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Http1,
    Http2,
}

/// An element of `endpoints`: a URL, or a mapping with `url` and more.
#[derive(Debug)]
pub enum Endpoint {
    Url(String),
    Full(EndpointFields),
}

/// An endpoint that says more than where it is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointFields {
    /// Where it is.
    ///
    /// - required
    /// - range: `http://HOST:PORT` or `https://HOST:PORT`
    /// - example: `"http://10.0.0.7:8080"`
    pub url: Option<String>,
    /// Its part of the requests.
    ///
    /// - default: `1`
    /// - range: 1 to 1000, in proportion to the others'
    /// - example: `2`
    pub weight: Option<u32>,
    /// The zone that it is in; those of the node's `gateway.zone` come first.
    ///
    /// - default: none
    /// - range: up to 128 of letters, digits and `-_./`
    /// - example: `eu-central-1a`
    pub zone: Option<String>,
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
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct UpstreamTls {
    /// A PEM file of the authorities that vouch for endpoints, as seen from the policy's file.
    ///
    /// - default: the system's
    /// - example: `ca.pem`
    pub ca: Option<String>,
    /// The name that is asked for (SNI) and that the certificate must have.
    ///
    /// - default: the endpoint's host
    /// - range: a name or an address
    /// - example: `orders.internal`
    pub server_name: Option<String>,
    /// SPIFFE identities, of which the certificate must have one; its names do not count then.
    ///
    /// - default: none
    /// - range: `spiffe://DOMAIN/PATH`; `/*` at the end stands for all below
    /// - example: `["spiffe://example.com/ns/shop/sa/orders"]`
    pub spiffe: Option<OneOrMany<String>>,
    /// A PEM file of the certificate that the gateway shows.
    ///
    /// - default: none
    /// - range: together with `key`
    /// - example: `own.pem`
    pub certificate: Option<String>,
    /// A PEM file of its key.
    ///
    /// - default: none
    /// - range: together with `certificate`
    /// - example: `own.key`
    pub key: Option<String>,
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    LeastRequest,
    RoundRobin,
    P2c,
    /// What a request is hashed by, onto a ring.
    ///
    /// - example: `{header: x-user}`
    RingHash(HashKey),
    /// What a request is hashed by, by Maglev's table.
    ///
    /// - example: `{cookie: sid}`
    Maglev(HashKey),
}

/// What a request is hashed by.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HashKey {
    Source,
    Path,
    #[serde(rename = "token.sub")]
    TokenSubject,
    /// The name of a header field.
    ///
    /// - example: `x-user`
    Header(String),
    /// The name of a cookie.
    ///
    /// - range: up to 256 bytes
    /// - example: `sid`
    Cookie(String),
    /// The name of a parameter of the query.
    ///
    /// - range: up to 256 bytes
    /// - example: `user`
    Query(String),
}

/// Active health checks.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Health {
    /// What is asked for, with GET.
    ///
    /// - required
    /// - range: begins with `/`
    /// - example: `/healthz`
    pub path: Option<String>,
    /// How often each endpoint is asked.
    ///
    /// - default: `5s`
    /// - range: 10ms to 1h
    /// - example: `10s`
    pub interval: Option<Duration>,
    /// How long an answer may take.
    ///
    /// - default: `1s`, or `interval` where that is shorter
    /// - range: 10ms to 1h, at most `interval`
    /// - example: `500ms`
    pub timeout: Option<Duration>,
    /// How many answers in a row make it usable.
    ///
    /// - default: `2`
    /// - range: 1 to 100 answers
    /// - example: `1`
    pub healthy_after: Option<u32>,
    /// How many failures in a row take it out.
    ///
    /// - default: `3`
    /// - range: 1 to 100 failures
    /// - example: `2`
    pub unhealthy_after: Option<u32>,
}

/// `limits` of a service.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamLimits {
    /// Connections to each endpoint.
    ///
    /// - default: `1024`
    /// - range: 1 to 1000000 connections
    /// - example: `200`
    pub connections: Option<u32>,
    /// Requests that wait for a connection.
    ///
    /// - default: `1024`
    /// - range: 0 to 1000000 requests
    /// - example: `100`
    pub pending: Option<u32>,
    /// Requests that are under way.
    ///
    /// - default: `16384`
    /// - range: 1 to 1000000 requests
    /// - example: `2000`
    pub requests: Option<u32>,
    /// Requests that are being sent again.
    ///
    /// - default: `128`
    /// - range: 0 to 1000000 requests
    /// - example: `20`
    pub retries: Option<u32>,
    /// Lowers `requests` while the service is slower than it can be.
    ///
    /// - default: `requests` stays
    /// - example: `{floor: 10}`
    pub adaptive: Option<AdaptiveRequests>,
}

/// `limits.adaptive` of a service.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdaptiveRequests {
    /// The lowest number of requests that it goes to.
    ///
    /// - required
    /// - range: 1 to `requests`, in requests
    /// - example: `10`
    pub floor: Option<u32>,
}

/// `retries`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Retries {
    /// Further tries of one request.
    ///
    /// - default: `2`
    /// - range: 0 to 10 tries
    /// - example: `1`
    pub attempts: Option<u32>,
    /// After what a request is sent again.
    ///
    /// - default: `reset`
    /// - range: each once
    /// - example: `[reset, 502, 503]`
    #[schemars(schema_with = "super::schema::retry_on")]
    pub on: Option<OneOrMany<Quantity>>,
    /// How long one try may take.
    ///
    /// - default: the rule's `timeout`
    /// - range: 1ms to 1h
    /// - example: `500ms`
    pub per_try: Option<Duration>,
    /// The longest wait before the first further try; it doubles with each.
    ///
    /// - default: `25ms`
    /// - range: 0ms to 1m
    /// - example: `50ms`
    pub backoff: Option<Duration>,
    /// The longest wait of all.
    ///
    /// - default: ten times `backoff`
    /// - range: 0ms to 1m, not below `backoff`
    /// - example: `500ms`
    pub max_backoff: Option<Duration>,
    /// How many requests may be sent again in all.
    ///
    /// - default: `{percent: 20, perSecond: 10}`
    /// - example: `{percent: 10, perSecond: 5}`
    pub budget: Option<RetryBudget>,
}

/// `retries.budget`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RetryBudget {
    /// Of the requests of the last 10 s.
    ///
    /// - default: `20`
    /// - range: 0 to 100 percent
    /// - example: `10`
    pub percent: Option<u32>,
    /// And so many besides.
    ///
    /// - default: `10`
    /// - range: 0 to 1000000 requests a second
    /// - example: `5`
    pub per_second: Option<u32>,
}

/// `outliers`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Outliers {
    /// Answers of 5xx, or none, in a row at one worker.
    ///
    /// - default: `5`
    /// - range: 1 to 1000 requests
    /// - example: `10`
    #[serde(rename = "consecutive5xx")]
    pub consecutive_5xx: Option<u32>,
    /// Requests without an answer in a row at one worker.
    ///
    /// - default: `3`
    /// - range: 1 to 1000 requests
    /// - example: `5`
    pub consecutive_failures: Option<u32>,
    /// The share of answers that must be other than 5xx.
    ///
    /// - default: none
    /// - example: `{below: 85, requests: 100}`
    pub success_rate: Option<SuccessRate>,
    /// In which time success is judged.
    ///
    /// - default: `10s`
    /// - range: 100ms to 1d
    /// - example: `30s`
    pub interval: Option<Duration>,
    /// How long an endpoint is left alone the first time.
    ///
    /// - default: `30s`
    /// - range: 100ms to 1d
    /// - example: `10s`
    pub base_ejection: Option<Duration>,
    /// How long at most.
    ///
    /// - default: `5m`, or `baseEjection` where that is longer
    /// - range: 100ms to 1d, not below `baseEjection`
    /// - example: `10m`
    pub max_ejection: Option<Duration>,
    /// How many endpoints may be left alone at once.
    ///
    /// - default: `50`
    /// - range: 1 to 100 percent
    /// - example: `30`
    pub max_ejected_percent: Option<u32>,
}

/// `outliers.successRate`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SuccessRate {
    /// The share below which an endpoint is left alone.
    ///
    /// - required
    /// - range: 1 to 100 percent
    /// - example: `85`
    pub below: Option<u32>,
    /// With how many requests in an interval it is judged.
    ///
    /// - default: `100`
    /// - range: 1 to 1000000 requests
    /// - example: `50`
    pub requests: Option<u32>,
}
