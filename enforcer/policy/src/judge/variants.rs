//! Exact paths that a client gets around by writing them a little differently.
//!
//! `/admin/` and `/ADMIN` are other paths than `/admin`, and another rule decides about them. Many frameworks make no
//! difference. Where the other rule leads to the same service and requires less, that is worth a warning.

use std::{collections::BTreeSet, sync::Arc};

use http::{HeaderMap, HeaderValue, Method};
use ipnet::IpNet;

use crate::yaml::place::Place;
use enforcer_model::{
    ApiKeyRequirement, CertificateRequirement, Condition, HostPattern, Mode, Name, Part, PathMatch,
    Requirement, Route, Rule, Test, TokenRequirement, access::RolesRequirement,
};
use enforcer_routing::router::{Asked, Router};

/// A rule for an exact path.
pub(super) struct Exact<'a> {
    pub(super) route: Name,
    /// Its position.
    pub(super) rule: usize,
    /// Where its path stands.
    pub(super) at: Place<'a>,
}

/// Warns of those of `exact` that other rules of `routes`, which are in order of name, make easy to get around.
pub(super) fn warn(exact: &[Exact<'_>], routes: &[Arc<Route>]) {
    let router = Router::new(routes);
    for each in exact {
        let found = routes.binary_search_by(|route| route.name.cmp(&each.route));
        let Some(route) = found.ok().map(|position| &*routes[position]) else {
            continue;
        };
        let Some(rule) = route.rules.get(each.rule) else {
            continue;
        };
        let PathMatch::Exact(path) = &rule.path else {
            continue;
        };
        let around: Vec<_> = variants(path)
            .into_iter()
            .filter_map(|variant| {
                let (route, position) = weaker(&router, routes, (route, rule), &variant)?;
                Some(format!(
                    "`{variant}` (rules[{position}] of the route `{}`)",
                    route.name
                ))
            })
            .collect();
        if !around.is_empty() {
            let message = format!(
                "the same service gets {} without what is required here, and many services make no difference between these paths and `{path}`",
                around.join(" and ")
            );
            let pattern = regex::escape(path.strip_suffix('/').unwrap_or(path));
            let hint = format!(
                "require the same there, or match all of them here: `path: {{regex: '(?i){pattern}/?'}}`"
            );
            each.at.warning(message, hint);
        }
    }
}

/// The path with a slash at its end, or without the one that it has, and in other case.
fn variants(path: &str) -> Vec<String> {
    let slash = match path.strip_suffix('/') {
        Some("") => None,
        Some(without) => Some(without.to_owned()),
        None => Some(format!("{path}/")),
    };
    // Escapes are in upper case anyway.
    let upper = path.to_ascii_uppercase();
    let lower = || path.to_ascii_lowercase();
    let other = if upper != path {
        Some(upper)
    } else {
        Some(lower()).filter(|lower| lower != path && !path.contains('%'))
    };
    slash.into_iter().chain(other).collect()
}

/// The rule that decides about `path` instead of this one, and its position, if it requires less.
fn weaker<'r>(
    router: &Router,
    routes: &'r [Arc<Route>],
    (route, rule): (&Route, &Rule),
    path: &str,
) -> Option<(&'r Route, usize)> {
    let any = [Method::GET, Method::POST];
    let methods = if rule.methods.is_empty() {
        &any[..]
    } else {
        &rule.methods[..]
    };
    let (fields, query) = meeting(&rule.routing.conditions);
    let at = listeners(route, routes);
    for host in &route.hosts {
        let host = match host {
            HostPattern::Exact(name) => name.to_string(),
            HostPattern::Suffix(suffix) => format!("any.{suffix}"),
            HostPattern::Any => "any.invalid".to_owned(),
        };
        for (method, listener) in methods
            .iter()
            .flat_map(|method| at.iter().map(move |at| (method, at)))
        {
            let asked = Asked {
                host: &host,
                path,
                query: Some(&query),
                method,
                fields: &fields,
                listener,
            };
            let Ok(Some(at)) = router.find(&asked, router.patterns()) else {
                continue;
            };
            let (other_route, other) = (&*routes[at.route], &routes[at.route].rules[at.rule]);
            if leads_to_same(rule, other) && requires_more((route, rule), (other_route, other)) {
                return Some((other_route, at.rule));
            }
        }
    }
    None
}

/// Where a route is served, as far as routes tell listeners apart: at those that it names, else at any that is named, and
/// at one that is not.
fn listeners(route: &Route, routes: &[Arc<Route>]) -> BTreeSet<Name> {
    if !route.listeners.is_empty() {
        return route.listeners.iter().cloned().collect();
    }
    let named = routes.iter().flat_map(|route| route.listeners.iter().cloned());
    named.chain("unnamed".parse().ok()).collect()
}

/// Fields and a query that meet conditions, as far as they can be made up.
fn meeting(conditions: &[Condition]) -> (HeaderMap, String) {
    let mut fields = HeaderMap::new();
    let mut query = form_urlencoded::Serializer::new(String::new());
    for condition in conditions {
        let value = match &condition.test {
            Test::Exact(text) | Test::Prefix(text) => &**text,
            Test::Present(true) => "1",
            Test::Present(false) | Test::Regex(_) => continue,
        };
        match &condition.part {
            Part::Header(name) => {
                if let Ok(value) = HeaderValue::from_str(value) {
                    fields.insert(name, value);
                }
            }
            Part::Query(name) => {
                query.append_pair(name, value);
            }
        }
    }
    (fields, query.finish())
}

fn leads_to_same(rule: &Rule, other: &Rule) -> bool {
    let others = other.destination.services();
    let is_there = |service: &Name| others.iter().any(|other| other.service == *service);
    rule.destination
        .services()
        .iter()
        .any(|each| is_there(&each.service))
}

/// Whether the first rule requires anything that the other does not.
fn requires_more((route, rule): (&Route, &Rule), (other_route, other): (&Route, &Rule)) -> bool {
    if rule.mode(route) == Mode::Shadow || matches!(other.require, Requirement::Nobody) {
        return false;
    }
    let more = match (&rule.require, &other.require) {
        (Requirement::Nobody, _) | (Requirement::Proof { .. }, Requirement::Anybody) => true,
        (
            Requirement::Proof { mtls, token, api_key },
            Requirement::Proof {
                mtls: other_mtls,
                token: other_token,
                api_key: other_key,
            },
        ) => {
            wants_more(mtls.as_ref(), other_mtls.as_ref(), certificate)
                || wants_more(token.as_ref(), other_token.as_ref(), token_of)
                || wants_more(api_key.as_deref(), other_key.as_deref(), key)
        }
        _ => false,
    };
    let from = &rule.access.from;
    let is_within = |prefix: &IpNet| from.iter().any(|wide| wide.contains(prefix));
    let elsewhere = &other.access.from;
    let from_more = !from.is_empty() && (elsewhere.is_empty() || !elsewhere.iter().all(is_within));
    let condition = |rule: &Rule| rule.access.when.as_ref().map(|when| Arc::clone(&when.text));
    let when_more = condition(rule).is_some_and(|when| condition(other) != Some(when));
    let requires = more || from_more || when_more;
    let is_open = other.mode(other_route) == Mode::Shadow && !matches!(rule.require, Requirement::Anybody);
    requires || is_open
}

/// Whether `one` is wanted, and more of it than `other` has.
fn wants_more<T>(one: Option<&T>, other: Option<&T>, more: impl Fn(&T, &T) -> bool) -> bool {
    match (one, other) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(one), Some(other)) => more(one, other),
    }
}

fn certificate(one: &CertificateRequirement, other: &CertificateRequirement) -> bool {
    let admits_others = other.spiffe.is_empty() || other.spiffe.iter().any(|each| !one.spiffe.contains(each));
    let names = one.names != other.names;
    (!one.spiffe.is_empty() && admits_others)
        || (names && (!one.names.dns.is_empty() || !one.names.subject.is_empty()))
}

fn token_of(one: &TokenRequirement, other: &TokenRequirement) -> bool {
    let claims = &other.content.claims;
    let lacks_role = |one: &RolesRequirement, other: &RolesRequirement| {
        one.claim != other.claim || one.all.iter().any(|role| !other.all.contains(role))
    };
    one.issuer != other.issuer
        || one.scopes.iter().any(|scope| !other.scopes.contains(scope))
        || one.content.claims.iter().any(|claim| !claims.contains(claim))
        || wants_more(
            one.content.roles.as_ref(),
            other.content.roles.as_ref(),
            lacks_role,
        )
}

fn key(one: &ApiKeyRequirement, other: &ApiKeyRequirement) -> bool {
    other.keys.iter().any(|document| !one.keys.contains(document))
        || one.roles.iter().any(|role| !other.roles.contains(role))
}
