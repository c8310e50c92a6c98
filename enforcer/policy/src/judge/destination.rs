//! Where the requests of a rule go.

use std::{num::NonZeroU16, sync::Arc};

use http::{StatusCode, uri::Scheme};

use super::{
    Known,
    changes::{host, path_change},
};
use crate::{
    raw,
    yaml::place::{Place, Unique},
};
use enforcer_model::{
    destination::{Destination, Mirror, Redirect, Weighted},
    leaf::{HostPattern, PathMatch},
};

/// The most services of one rule.
const MAX_SERVICES: usize = 16;

/// The largest weight.
const MAX_WEIGHT: u32 = 1_000_000;

/// What a rule that redirects has no use for.
const OF_SERVICES: [&str; 6] = [
    "service",
    "services",
    "mirror",
    "rewrite",
    "requestHeaders",
    "upgrade",
];

/// Takes what it judges out of the raw rule at `at`, which is about `path`.
pub(super) fn destination(
    raw: &mut raw::Rule,
    path: &PathMatch,
    hosts: &[HostPattern],
    at: &Place<'_>,
    known: &Known,
) -> Option<Destination> {
    if at.mentions("redirect") {
        for key in OF_SERVICES.into_iter().filter(|key| at.mentions(key)) {
            at.field(key).error_with(
                "the rule redirects, so no service gets its requests",
                format!("leave out `{key}`, or `redirect`"),
            );
        }
        let redirect = at.optional("redirect", raw.redirect.take(), |raw, at| {
            redirect(raw, path, hosts, at)
        })?;
        return Some(Destination::Redirect(redirect));
    }
    if !at.mentions("services") {
        let service = at.required("service", raw.service.take(), |text, at| known.service(&text, at))?;
        return Some(Destination::to(service));
    }
    if at.mentions("service") {
        at.field("services")
            .error("the rule has a `service` too: write one of the two");
        return None;
    }
    at.optional("services", raw.services.take(), |list, place| {
        services(list, place, at, known).map(Destination::Services)
    })
}

fn services(
    list: Vec<raw::Weighted>,
    place: &Place<'_>,
    at: &Place<'_>,
    known: &Known,
) -> Option<Vec<Weighted>> {
    let length = list.len();
    if place.is_empty_list() || length > MAX_SERVICES {
        place.error(format!(
            "a rule has 1 to {MAX_SERVICES} services, and here are {length}"
        ));
        return None;
    }
    let mut seen = Unique::default();
    let services = at.each("services", list, |(raw, at)| {
        let service = at.required("service", raw.service, |text, at| known.service(&text, at));
        let weight = at.optional("weight", raw.weight, |weight, at| {
            if weight > MAX_WEIGHT {
                at.error(format!("{weight} is out of range: write 0 to {MAX_WEIGHT}"));
            }
            Some(weight)
        });
        let service = service?;
        seen.claim(service.clone(), &at, |first| {
            format!("the service at {first} is `{service}` too: join the two")
        });
        Some(Weighted {
            service,
            weight: weight.unwrap_or(1),
        })
    });
    if services.len() == length && services.iter().all(|each| each.weight == 0) {
        place.error("no service has a weight other than 0, so nothing would be served");
    }
    Some(services)
}

pub(super) fn mirror(raw: raw::Mirror, at: &Place<'_>, known: &Known) -> Option<Mirror> {
    let service = at.required("service", raw.service, |text, at| known.service(&text, at));
    let percent = at.optional("percent", raw.percent, |percent, at| {
        match u8::try_from(percent) {
            Ok(percent) if (1..=100).contains(&percent) => Some(percent),
            _ => {
                at.error(format!("{percent} is out of range: write 1 to 100"));
                None
            }
        }
    });
    Some(Mirror {
        service: service?,
        percent: percent.unwrap_or(100),
    })
}

fn redirect(raw: raw::Redirect, path: &PathMatch, hosts: &[HostPattern], at: &Place<'_>) -> Option<Redirect> {
    let status = at.optional("status", raw.status, |status, at| match status {
        301 | 302 | 303 | 307 | 308 => StatusCode::from_u16(u16::try_from(status).ok()?).ok(),
        _ => {
            at.error(format!(
                "{status} redirects nobody: write 301, 302, 303, 307 or 308"
            ));
            None
        }
    });
    let port = at.optional("port", raw.port, |port, at| {
        let port = u16::try_from(port).ok().and_then(NonZeroU16::new);
        if port.is_none() {
            at.error("a port is 1 to 65535");
        }
        port
    });
    let host = at.optional("host", raw.host, |text, at| {
        let value = host(&text, at)?;
        let text = value.to_str().ok()?;
        if text.rsplit(']').next().is_some_and(|rest| rest.contains(':')) {
            at.error_with("the host has a port", "write `port` beside it");
            return None;
        }
        Some(Arc::from(text))
    });
    let change = at.optional("path", raw.path, |raw, at| path_change(raw, path, at));
    let scheme = raw.scheme.map(|scheme| match scheme {
        raw::Scheme::Http => Scheme::HTTP,
        raw::Scheme::Https => Scheme::HTTPS,
    });
    let says = |key: &str| at.mentions(key);
    if !["scheme", "host", "port", "path"].into_iter().any(says) {
        at.error_with(
            "this leads a client to where it has come from",
            "write `scheme`, `host`, `port` or `path`",
        );
        return None;
    }
    // Otherwise it would lead to whatever host the client names.
    if (says("scheme") || says("port")) && !says("host") && hosts.contains(&HostPattern::Any) {
        at.error_with(
            "the route has any host, and this does not say to which it leads",
            "write `host` beside it",
        );
        return None;
    }
    Some(Redirect {
        status: status.unwrap_or(StatusCode::FOUND),
        scheme,
        host,
        port,
        path: change,
    })
}
