//! Services and their endpoints.

use std::{sync::Arc, time::Duration};

use http::uri::Authority;

use super::{Head, duration_within};
use crate::policy::{
    model::{Balance, Endpoint, Health, Protocol, Service},
    raw,
    yaml::place::{Place, Unique, parsed},
};

/// The most endpoints of one service.
const MAX_ENDPOINTS: usize = 1024;

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
    let health = at.optional("health", raw.health, health);
    let within = duration_within(Duration::from_millis(1), Duration::from_secs(60));
    let connect_timeout = at.optional("connectTimeout", raw.connect_timeout, within);
    let head = head?;
    Some(Service {
        name: head.name,
        origin: head.origin,
        endpoints: endpoints?,
        balance: match raw.balance {
            None | Some(raw::Balance::LeastRequest) => Balance::LeastRequest,
            Some(raw::Balance::RoundRobin) => Balance::RoundRobin,
        },
        health,
        connect_timeout: connect_timeout.unwrap_or(Duration::from_secs(1)),
        protocol: match raw.protocol {
            None | Some(raw::Protocol::Http1) => Protocol::Http1,
            Some(raw::Protocol::Http2) => Protocol::Http2,
        },
    })
}

fn endpoints(list: Vec<String>, at: &Place<'_>, place: &Place<'_>) -> Option<Vec<Endpoint>> {
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
    let mut seen = Unique::new();
    Some(at.each("endpoints", list, |(text, at)| {
        let endpoint = parsed(parse_endpoint)(&text, &at)?;
        seen.claim(endpoint.authority.as_str().to_owned(), &at, |_| {
            format!("`{text}` is listed above already: write it once")
        });
        Some(endpoint)
    }))
}

/// `http://host:port`.
fn parse_endpoint(text: &str) -> Result<Endpoint, String> {
    let example = "write it like http://10.0.0.7:8080";
    if text.starts_with("https://") {
        return Err(format!(
            "`{text}`: TLS to upstreams is not offered by this version: use http:// within a network that you trust"
        ));
    }
    let rest = text
        .strip_prefix("http://")
        .ok_or_else(|| format!("`{text}` does not begin with http://: {example}"))?;
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
    match authority.port_u16() {
        Some(port) if port > 0 => Ok(Endpoint { authority }),
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
