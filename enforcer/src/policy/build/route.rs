//! Routes, their rules and what these require.

use std::{collections::BTreeSet, num::NonZeroU64, sync::Arc, time::Duration};

use super::{
    Head, Known, Located, distinct, distinct_of, duration_within,
    limit::{Draft, Measure},
    mode, values,
};
use crate::policy::{
    leaf::{HostPattern, Name, PathMatch, quantity},
    model::{
        CertificateRequirement, Exceed, RequestKey, RequestLimit, Requirement, Route, Rule, TokenRequirement,
    },
    raw,
    yaml::place::{Place, Unique, parsed},
};

/// The largest body that a rule may admit.
const MAX_BODY: u64 = 1 << 40;

/// The most limits of one rule.
const LIMITS_PER_RULE: usize = 8;

/// The most rules of one route.
const MAX_RULES: usize = 1000;

/// Which route has which host with which first match.
pub(super) type Claims = Unique<(String, String)>;

/// What the rules of one route are judged by.
struct Scope<'a> {
    route: &'a str,
    known: &'a Known,
}

pub(super) fn build(
    head: Option<Head>,
    raw: raw::Route,
    at: &Place<'_>,
    known: &Known,
    claims: &mut Claims,
) -> Option<Route> {
    let hosts = at.required("hosts", raw.hosts, |list, _| {
        Some(distinct(at, "hosts", list.0, str::parse::<HostPattern>))
    });
    let scope = Scope {
        route: head.as_ref().map_or("", |head| head.name.as_str()),
        known,
    };
    let mut limit_names = Unique::new();
    let rules = at.required("rules", raw.rules, |list, place| {
        if list.is_empty() && place.items().is_empty() {
            place.error("a route has at least one rule: without one it admits nothing");
        }
        if list.len() > MAX_RULES {
            place.error(format!(
                "a route has at most {MAX_RULES} rules, and here are {}",
                list.len()
            ));
        }
        let mut position = 0..;
        Some(at.each("rules", list, |(raw, at)| {
            rule(raw, position.next().unwrap_or(0), &at, &scope, &mut limit_names)
        }))
    });
    if let (Some(hosts), Some(first)) = (&hosts, rules.as_ref().and_then(|rules| rules.first())) {
        claim(hosts, first, claims);
    }
    let head = head?;
    Some(Route {
        name: head.name,
        origin: head.origin,
        mode: mode(raw.mode),
        hosts: values(hosts?),
        rules: rules?,
    })
}

/// Two routes that begin alike for one host: the second would never be reached by them.
fn claim(hosts: &[Located<'_, HostPattern>], first: &Rule, claims: &mut Claims) {
    let methods: BTreeSet<&str> = first.methods.iter().map(http::Method::as_str).collect();
    let matched = format!("{} {methods:?}", first.path);
    for (host, place) in hosts {
        claims.claim((host.to_string(), matched.clone()), place, |other| {
            format!(
                "the route at {other} has the host `{host}` and begins with the same path and methods: join the two, or give them different matches"
            )
        });
    }
}

fn rule(
    raw: raw::Rule,
    position: usize,
    at: &Place<'_>,
    scope: &Scope<'_>,
    names: &mut Unique<Arc<str>>,
) -> Option<Rule> {
    let matched = at.optional("match", raw.matches, |matches, at| {
        let path = at.optional("path", matches.path, path);
        let methods = matches.methods.map(|list| list.0);
        Some((path, values(distinct_of(at, "methods", methods, parse_method))))
    });
    let (path, methods) = matched.unwrap_or_default();
    let proofs = Proofs::asked_for(raw.require.as_ref(), at);
    let require = requirement(raw.require, at, scope);
    let service = at.required("service", raw.service, |text, at| scope.known.service(text, at));
    let within = duration_within(Duration::from_millis(1), Duration::from_secs(3600));
    let timeout = at.optional("timeout", raw.timeout, within);
    let max_body = at.optional("maxBody", raw.max_body, max_body);
    let list = raw.limits.unwrap_or_default();
    if list.len() > LIMITS_PER_RULE {
        at.field("limits")
            .error(format!("a rule has at most {LIMITS_PER_RULE} limits"));
    }
    let mut index = 0..;
    let limits = at.each("limits", list, |(raw, at)| {
        let default_name = format!("{}-{position}-{}", scope.route, index.next().unwrap_or(0));
        let built = limit(raw, default_name, &at, &proofs)?;
        names.claim(Arc::clone(&built.name), &at, |first| {
            format!(
                "the limit at {first} is named `{}` too: give one of them another name",
                built.name
            )
        });
        Some(built)
    });
    Some(Rule {
        path: path.unwrap_or_else(|| PathMatch::Prefix("/".into())),
        methods,
        require,
        limits,
        service: service?,
        timeout: timeout.unwrap_or(Duration::from_secs(15)),
        max_body: max_body.unwrap_or(1 << 20),
    })
}

fn path(raw: raw::PathMatch, at: &Place<'_>) -> Option<PathMatch> {
    match raw {
        raw::PathMatch::Prefix(text) => parsed(PathMatch::prefix)(text, &at.field("prefix")),
        raw::PathMatch::Exact(text) => parsed(PathMatch::exact)(text, &at.field("exact")),
    }
}

/// Methods are case-sensitive (RFC 9110, 9.1): `get` would be another one than GET.
fn parse_method(text: &str) -> Result<http::Method, String> {
    let upper = text.to_ascii_uppercase();
    match http::Method::from_bytes(text.as_bytes()) {
        Ok(http::Method::CONNECT) => Err("`CONNECT` is never proxied".to_owned()),
        Ok(method) if text == upper => Ok(method),
        Ok(_) => Err(format!("`{text}` is another method than {upper}: write {upper}")),
        Err(_) => Err(format!("`{text}` is no method: write it like GET")),
    }
}

fn max_body(raw: raw::Quantity, at: &Place<'_>) -> Option<u64> {
    let size = parsed(quantity::parse_size)(raw.0, at)?;
    if size > MAX_BODY {
        at.error("a body is at most 1024GiB");
        return None;
    }
    Some(size)
}

fn requirement(raw: Option<raw::Require>, at: &Place<'_>, scope: &Scope<'_>) -> Requirement {
    let admitting = "write `require: {mtls: {}}`, `require: {token: {issuer: …}}`, or `require: {anonymous: true}` to admit everybody";
    let Some(raw) = raw else {
        if !at.mentions("require") {
            at.warning("this rule requires nothing, so it admits nobody", admitting);
        }
        return Requirement::Nobody;
    };
    let at = at.field("require");
    let (has_mtls, has_token) = (at.mentions("mtls"), at.mentions("token"));
    let mtls = at.optional("mtls", raw.mtls, |mtls, at| Some(certificate(mtls, at)));
    let token = at.optional("token", raw.token, |token, at| {
        token_requirement(token, at, scope)
    });
    match raw.anonymous {
        Some(_) if has_mtls || has_token => {
            at.field("anonymous").error_with(
                "a rule cannot both admit everybody and ask for a proof",
                "leave `anonymous` out, or `mtls` and `token`",
            );
            Requirement::Nobody
        }
        Some(true) => Requirement::Anybody,
        Some(false) | None if has_mtls || has_token => Requirement::Proof { mtls, token },
        Some(false) | None => {
            if !at.mentions("anonymous") || raw.anonymous.is_some() {
                at.warning("this rule requires nothing, so it admits nobody", admitting);
            }
            Requirement::Nobody
        }
    }
}

fn certificate(raw: raw::Mtls, at: &Place<'_>) -> CertificateRequirement {
    let identities = raw.spiffe.map(|list| list.0);
    CertificateRequirement {
        spiffe: values(distinct_of(at, "spiffe", identities, str::parse)),
    }
}

fn token_requirement(raw: raw::Token, at: &Place<'_>, scope: &Scope<'_>) -> Option<TokenRequirement> {
    let issuer = at.required("issuer", raw.issuer, |text, at| scope.known.issuer(text, at));
    let scopes = distinct_of(at, "scopes", raw.scopes.map(|list| list.0), parse_scope);
    Some(TokenRequirement {
        issuer: issuer?,
        scopes: values(scopes),
    })
}

/// A scope-token (RFC 6749, 3.3): printable ASCII without space, `"` and `\`.
fn parse_scope(text: &str) -> Result<Arc<str>, String> {
    if text.contains(' ') {
        return Err(format!(
            "`{text}` is several scopes: write each as an element of the list"
        ));
    }
    if text.is_empty()
        || !text
            .chars()
            .all(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\'))
    {
        return Err(format!(
            "`{text}` is no scope (RFC 6749, 3.3): write it like orders:read"
        ));
    }
    Ok(text.into())
}

fn limit(
    raw: raw::RequestLimit,
    default_name: String,
    at: &Place<'_>,
    proofs: &Proofs,
) -> Option<RequestLimit> {
    let name = match raw.name {
        Some(text) => parsed(str::parse::<Name>)(text, &at.field("name")).map(|name| name.shared()),
        None => Some(default_name.into()),
    };
    let per = at.required("per", raw.per, |list, place| {
        if list.0.is_empty() && place.items().is_empty() {
            place.error("the key is empty: write `per: source`, or `per: rule` for one limit that all share");
        }
        let mut seen = Unique::new();
        Some(at.each("per", list.0, |(raw, at)| {
            let (key, rank) = key(raw);
            seen.claim(rank, &at, |_| {
                "this part of the key is named above already: write it once".to_owned()
            });
            check_key(key, proofs, &at);
            Some(key)
        }))
    });
    let rate = at.required("rate", raw.rate, |text, at| Measure::Requests.rate(text, at));
    let burst = at.optional("burst", raw.burst, |burst, at| Measure::Requests.burst(burst, at));
    let exceed = at.optional("exceed", raw.exceed, exceed);
    let draft = Draft {
        algorithm: raw.algorithm,
        rate,
        burst,
        // One period's amount: `100/m` lets 100 come at once.
        default_burst: |rate| -> NonZeroU64 { rate.amount() },
    };
    let (budget, params) = draft.build(at)?;
    Some(RequestLimit {
        name: name?,
        per: per?,
        budget,
        params,
        exceed: exceed.unwrap_or_default(),
    })
}

/// The key, and a number that tells it from others.
fn key(raw: raw::RequestKey) -> (RequestKey, u8) {
    match raw {
        raw::RequestKey::Source => (RequestKey::Source, 0),
        raw::RequestKey::Certificate => (RequestKey::Certificate, 1),
        raw::RequestKey::TokenSubject => (RequestKey::TokenSubject, 2),
        raw::RequestKey::TokenClient => (RequestKey::TokenClient, 3),
        raw::RequestKey::Rule => (RequestKey::Rule, 4),
        raw::RequestKey::Service => (RequestKey::Service, 5),
    }
}

/// What a rule asks for, even if how it asks is wrong.
struct Proofs {
    certificate: bool,
    token: bool,
}

impl Proofs {
    fn asked_for(require: Option<&raw::Require>, rule: &Place<'_>) -> Self {
        let at = rule.field("require");
        let unreadable = require.is_none() && rule.mentions("require");
        Self {
            certificate: unreadable || at.mentions("mtls"),
            token: unreadable || at.mentions("token"),
        }
    }
}

/// A key that requests need not have would put all those without it into one limiter, or none.
fn check_key(key: RequestKey, proofs: &Proofs, at: &Place<'_>) {
    match key {
        RequestKey::TokenSubject | RequestKey::TokenClient if !proofs.token => at.error_with(
            "the key is taken from a token, and the rule requires none",
            "write `require: {token: {issuer: …}}`, or another key",
        ),
        RequestKey::Certificate if !proofs.certificate => at.error_with(
            "the key is taken from a client certificate, and the rule requires none",
            "write `require: {mtls: {}}`, or another key",
        ),
        _ => {}
    }
}

fn exceed(raw: raw::Exceed, at: &Place<'_>) -> Option<Exceed> {
    match raw {
        raw::Exceed::Reject => Some(Exceed::Reject),
        raw::Exceed::Queue(text) => {
            let within = duration_within(Duration::from_millis(1), Duration::from_secs(5));
            within(text, &at.field("queue")).map(Exceed::Queue)
        }
    }
}
