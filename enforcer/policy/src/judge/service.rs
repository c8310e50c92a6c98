//! Services and their endpoints.

use std::{num::NonZeroU16, sync::Arc, time::Duration};

use http::uri::Authority;

use super::{Head, duration_within, upstream, upstream_tls};
use crate::{
    raw,
    yaml::place::{Place, Unique, parsed},
};
use enforcer_model::{Endpoint, Health, Protocol, Service};
use enforcer_tls::service::server_name;

/// The most endpoints of one service.
const MAX_ENDPOINTS: usize = 1024;

/// The greatest weight of an endpoint.
const MAX_WEIGHT: u16 = 1000;

pub(super) fn build(head: Option<Head>, raw: raw::Service, at: &Place<'_>) -> Option<Service> {
    let endpoints = at.required("endpoints", raw.endpoints, |list, place| {
        endpoints(list, at, place)
    });
    if raw.protocol == Some(raw::Protocol::Http2) && raw.health.is_some() {
        at.field("health").error_with(
            "health checks speak HTTP/1.1, and the service speaks HTTP/2",
            "leave out `health`, or write `protocol: http1`",
        );
    }
    let balance = at.optional("balance", raw.balance, upstream::balance);
    let health = at.optional("health", raw.health, health);
    let within = duration_within(Duration::from_millis(1), Duration::from_secs(60));
    let connect_timeout = at.optional("connectTimeout", raw.connect_timeout, within);
    let tls = at.optional("tls", raw.tls, upstream_tls::build);
    let https = endpoints.iter().flatten().any(|endpoint| endpoint.https);
    if tls.is_some() && endpoints.is_some() && !https {
        at.field("tls").error(
            "`tls` is about https endpoints, and there are none: write https:// in them, or leave it out",
        );
    }
    let limits = at.optional("limits", raw.limits, upstream::limits);
    let retries = at.optional("retries", raw.retries, upstream::retries);
    let outliers = at.optional("outliers", raw.outliers, upstream::outliers);
    let within = duration_within(Duration::from_secs(1), Duration::from_secs(3600));
    let slow_start = at.optional("slowStart", raw.slow_start, within);
    let panic_percent = at.optional("panicPercent", raw.panic_percent, upstream::percent(0));
    let head = head?;
    Some(Service {
        name: head.name,
        origin: head.origin,
        endpoints: endpoints?,
        balance: balance.unwrap_or_default(),
        health,
        connect_timeout: connect_timeout.unwrap_or(Duration::from_secs(1)),
        tls: tls.unwrap_or_default(),
        limits: limits.unwrap_or_default(),
        retries: retries.unwrap_or_default(),
        outliers,
        slow_start,
        panic_percent: panic_percent.unwrap_or(0),
        protocol: match raw.protocol {
            None | Some(raw::Protocol::Http1) => Protocol::Http1,
            Some(raw::Protocol::Http2) => Protocol::Http2,
        },
    })
}

fn endpoints(list: Vec<raw::Endpoint>, at: &Place<'_>, place: &Place<'_>) -> Option<Vec<Endpoint>> {
    if list.is_empty() && place.items().is_empty() {
        place.error_with(
            "a service has at least one endpoint",
            "write [\"http://10.0.0.7:8080\"]",
        );
    }
    if list.len() > MAX_ENDPOINTS {
        place.error(format!(
            "a service has at most {MAX_ENDPOINTS} endpoints, and here are {}",
            list.len()
        ));
    }
    let mut seen = Unique::default();
    Some(at.each("endpoints", list, |(raw, at)| {
        let (place, endpoint) = match raw {
            raw::Endpoint::Url(text) => (at.clone(), endpoint(&text, None, None, &at)?),
            raw::Endpoint::Full(fields) => {
                let weight = at.optional("weight", fields.weight, weight);
                let zone = at.optional("zone", fields.zone, parsed(parse_zone));
                let endpoint = at.required("url", fields.url, |text, at| endpoint(&text, weight, zone, at));
                (at.field("url"), endpoint?)
            }
        };
        seen.claim(endpoint.authority.as_str().to_owned(), &place, |_| {
            format!("`{}` is listed above already: write it once", endpoint.authority)
        });
        Some(endpoint)
    }))
}

fn endpoint(
    text: &str,
    weight: Option<NonZeroU16>,
    zone: Option<Arc<str>>,
    at: &Place<'_>,
) -> Option<Endpoint> {
    let (https, authority) = parsed(parse_endpoint)(text, at)?;
    Some(Endpoint {
        authority,
        https,
        weight: weight.unwrap_or(NonZeroU16::MIN),
        zone,
    })
}

fn weight(value: u32, at: &Place<'_>) -> Option<NonZeroU16> {
    let weight = u16::try_from(value).ok().filter(|weight| *weight <= MAX_WEIGHT);
    let weight = weight.and_then(NonZeroU16::new);
    if weight.is_none() {
        at.error(format!("{value} is out of range: write 1 to {MAX_WEIGHT}"));
    }
    weight
}

/// A zone's name: what nodes and endpoints have in common that are near each other.
pub fn parse_zone(text: &str) -> Result<Arc<str>, String> {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if text.is_empty() || text.len() > 128 || !text.chars().all(valid) {
        return Err(format!("`{text}` is no zone: write it like eu-central-1a"));
    }
    Ok(text.into())
}

/// `http://host:port` or `https://host:port`: whether it is TLS, and where.
fn parse_endpoint(text: &str) -> Result<(bool, Authority), String> {
    let example = "write it like http://10.0.0.7:8080";
    let (https, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
        (Some(rest), _) => (false, rest),
        (None, Some(rest)) => (true, rest),
        (None, None) => {
            return Err(format!(
                "`{text}` does not begin with http:// or https://: {example}"
            ));
        }
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#']) {
        return Err(format!(
            "`{text}` has a path, and requests keep their own: {example}"
        ));
    }
    if rest.contains('@') {
        return Err(format!(
            "`{text}` has credentials in it, which are never sent: {example}"
        ));
    }
    let authority: Authority = rest
        .parse()
        .map_err(|_| format!("`{text}` is no address: {example}"))?;
    if authority.host().is_empty() {
        return Err(format!("`{text}` has no host: {example}"));
    }
    if https {
        server_name(authority.host())?;
    }
    match authority.port_u16() {
        Some(port) if port > 0 => Ok((https, authority)),
        _ => Err(format!("`{text}` has no port from 1 to 65535: {example}")),
    }
}

fn health(raw: raw::Health, at: &Place<'_>) -> Option<Health> {
    let second = Duration::from_secs(1);
    let path = at.required("path", raw.path, |text, at| {
        if text.starts_with('/') && text.chars().all(|c| c.is_ascii_graphic() && c != '#') {
            return Some(Arc::from(text));
        }
        at.error(format!(
            "`{text}` is no path of a request: write it like /healthz"
        ));
        None
    });
    let within = || duration_within(Duration::from_millis(10), Duration::from_secs(3600));
    let interval = at
        .optional("interval", raw.interval, within())
        .unwrap_or(5 * second);
    let timeout = at
        .optional("timeout", raw.timeout, within())
        .unwrap_or(second.min(interval));
    if timeout > interval {
        at.field("timeout")
            .error("the timeout is longer than the interval: checks would overlap");
    }
    let healthy_after = at.optional("healthyAfter", raw.healthy_after, count);
    let unhealthy_after = at.optional("unhealthyAfter", raw.unhealthy_after, count);
    Some(Health {
        path: path?,
        interval,
        timeout,
        healthy_after: healthy_after.unwrap_or(2),
        unhealthy_after: unhealthy_after.unwrap_or(3),
    })
}

fn count(value: u32, at: &Place<'_>) -> Option<u32> {
    if (1..=100).contains(&value) {
        return Some(value);
    }
    at.error(format!("{value} is out of range: write 1 to 100"));
    None
}
