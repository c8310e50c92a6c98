//! Routes, their rules and what these require.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use super::{
    Head, Known, Located, access,
    destination::destination,
    distinct, distinct_of, duration_within,
    matching::conditions,
    mode, passthrough,
    request::{Of, limit},
    require::{Proofs, requirement},
    routing::routing,
    values, variants,
};
use crate::{
    raw,
    yaml::place::{Place, Unique, parsed},
};
use enforcer_model::{
    Destination, Mode, Name, RequestKey, RequestLimit, Requirement, Route, Rule, Upgrade,
    leaf::{HostPattern, PathMatch, other_escapes, quantity},
};

/// The largest body that a rule may admit.
const MAX_BODY: u64 = 1 << 40;

/// The most limits of one rule.
const LIMITS_PER_RULE: usize = 8;

/// The most rules of one route.
const MAX_RULES: usize = 1000;

/// The most rules of one route whose paths are regular expressions.
const MAX_PATTERNS: usize = 64;

/// What is judged of all routes together.
pub(super) struct Claims<'a> {
    firsts: Firsts,
    exact: Vec<variants::Exact<'a>>,
}

/// Which route has which host with which first match, at which listeners.
type Firsts = HashMap<(String, String), Vec<(Vec<Name>, String)>>;

impl Claims<'_> {
    pub(super) fn new() -> Self {
        Self {
            firsts: Firsts::new(),
            exact: Vec::new(),
        }
    }

    /// Warns of what `routes`, all of them in order of name, make of each other.
    pub(super) fn judge(&self, routes: &[Arc<Route>]) {
        // Rules that could not be built are missing, and what is wrong with them comes first.
        let is_whole = |first: &variants::Exact<'_>| !first.at.has_errors();
        if self.exact.first().is_some_and(is_whole) {
            variants::warn(&self.exact, routes);
        }
    }
}

/// Which limit of a route has which name.
type LimitNames = Unique<Arc<str>>;

/// What the rules of one route are judged by.
struct Scope<'a> {
    route: &'a str,
    hosts: Vec<HostPattern>,
    known: &'a Known,
}

pub(super) fn build<'a>(
    head: Option<Head>,
    mut raw: raw::Route,
    at: &Place<'a>,
    known: &Known,
    claims: &mut Claims<'a>,
) -> Option<Route> {
    let mode = mode(raw.mode);
    let hosts = at.required("hosts", raw.hosts.take(), |list, _| {
        Some(distinct(at, "hosts", list.0, str::parse::<HostPattern>))
    });
    let listeners = raw.listeners.take().map(|list| list.0);
    let listeners = values(distinct_of(at, "listeners", listeners, str::parse::<Name>));
    let passthrough = at.optional("passthrough", raw.passthrough, |raw, _| {
        Some(passthrough::passthrough(
            raw,
            hosts.as_deref().unwrap_or_default(),
            at,
        ))
    });
    if !at.mentions("passthrough") {
        passthrough::unreachable(hosts.as_deref().unwrap_or_default(), &listeners, known);
    }
    let scope = Scope {
        route: head.as_ref().map_or("", |head| head.name.as_str()),
        hosts: hosts.iter().flatten().map(|(host, _)| host.clone()).collect(),
        known,
    };
    let mut limit_names = Unique::default();
    let common = common_limits(&mut raw, at, &scope, &mut limit_names);
    let rules = at.required("rules", raw.rules, |list, place| {
        if place.is_empty_list() {
            place.error("a route has at least one rule: without one it admits nothing");
        }
        if list.len() > MAX_RULES {
            place.error(format!(
                "a route has at most {MAX_RULES} rules, and here are {}",
                list.len()
            ));
        }
        let mut position = 0..;
        let rules = at.each("rules", list, |(raw, at)| {
            let built = rule(
                raw,
                position.next().unwrap_or(0),
                &at,
                &scope,
                &common,
                &mut limit_names,
            )?;
            Some((built, at))
        });
        match passthrough {
            Some(_) => passthrough::rules(&rules),
            None => {
                unreachable(&rules);
                warn_of_shadow(mode, &rules, at);
            }
        }
        if let Some(head) = &head {
            let is_exact = |(_, (rule, _)): &(usize, &Located<'_, Rule>)| matches!(rule.path, PathMatch::Exact(_));
            let exact = rules.iter().enumerate().filter(is_exact);
            claims.exact.extend(exact.map(|(rule, (_, at))| variants::Exact {
                route: head.name.clone(),
                rule,
                at: at.field("match").field("path"),
            }));
        }
        let is_pattern = |(rule, _): &&Located<'_, Rule>| matches!(rule.path, PathMatch::Regex(_));
        if let Some((_, at)) = rules.iter().filter(is_pattern).nth(MAX_PATTERNS) {
            at.error(format!(
                "a route has at most {MAX_PATTERNS} rules with `match.path.regex`: each request to its hosts tries them all"
            ));
        }
        Some(values(rules))
    });
    // Where the first could not be built, another one stands in its place.
    let whole = rules
        .as_ref()
        .filter(|rules| rules.len() == at.field("rules").items().len());
    if let (Some(hosts), Some(first)) = (&hosts, whole.and_then(|rules| rules.first())) {
        let matched = match passthrough {
            Some(_) => "passthrough".to_owned(),
            None => first_match(first),
        };
        claim(hosts, &matched, &listeners, &mut claims.firsts);
    }
    let head = head?;
    Some(Route {
        name: head.name,
        origin: head.origin,
        mode,
        listeners,
        hosts: values(hosts?),
        rules: rules?,
        passthrough,
    })
}

/// What the first rule of a route is about.
fn first_match(first: &Rule) -> String {
    let methods: BTreeSet<&str> = first.methods.iter().map(http::Method::as_str).collect();
    format!("{} {methods:?} {:?}", first.path, first.routing.conditions)
}

/// Two routes that begin alike for one host at one listener: the second would never be reached by them.
fn claim(hosts: &[Located<'_, HostPattern>], matched: &str, listeners: &[Name], firsts: &mut Firsts) {
    for (host, place) in hosts {
        let claimed = firsts.entry((host.to_string(), matched.to_owned())).or_default();
        let meets = |(others, _): &&(Vec<Name>, String)| {
            others.is_empty() || listeners.is_empty() || others.iter().any(|name| listeners.contains(name))
        };
        if let Some((_, other)) = claimed.iter().find(meets) {
            place.error(format!(
                "the route at {other} has the host `{host}` and begins with the same match: join the two, or give them different matches"
            ));
        } else {
            claimed.push((listeners.to_vec(), place.reference()));
        }
    }
}

/// In shadow mode a rule admits whoever it would refuse, which is the opposite of what the word promises.
fn warn_of_shadow(mode: Mode, rules: &[Located<'_, Rule>], route: &Place<'_>) {
    let protects = |rule: &Rule| {
        !matches!(rule.require, Requirement::Anybody)
            || !rule.access.from.is_empty()
            || rule.access.when.is_some()
    };
    let warn = |at: &Place<'_>| {
        at.field("mode").warning(
            "in shadow mode everybody is let in: requests without what `require` asks for are counted, and forwarded all the same",
            "write `mode: enforce` where something is to be protected",
        );
    };
    let protecting = rules.iter().filter(|(rule, _)| protects(rule));
    if mode == Mode::Shadow && protecting.clone().any(|(rule, _)| rule.access.mode.is_none()) {
        warn(route);
    }
    for (rule, at) in protecting {
        if rule.access.mode == Some(Mode::Shadow) {
            warn(at);
        }
    }
}

/// The first rule that matches decides, so one behind another that matches all the same is idle.
fn unreachable(rules: &[Located<'_, Rule>]) {
    for (index, (rule, at)) in rules.iter().enumerate() {
        let covering = rules[..index].iter().find(|(earlier, _)| covers(earlier, rule));
        if let Some((_, first)) = covering {
            at.warning(
                format!(
                    "this rule is never reached: the one at {} matches all that it does",
                    first.reference()
                ),
                "put the narrower rule first, or leave one out",
            );
        }
    }
}

/// Whether `wide` matches every request that `narrow` does.
fn covers(wide: &Rule, narrow: &Rule) -> bool {
    let path = match (&wide.path, &narrow.path) {
        (PathMatch::Exact(wide), PathMatch::Exact(narrow)) => wide == narrow,
        (PathMatch::Exact(_), _) | (PathMatch::Regex(_), PathMatch::Prefix(_)) => false,
        (PathMatch::Regex(wide), PathMatch::Regex(narrow)) => wide == narrow,
        (PathMatch::Prefix(wide), PathMatch::Regex(_)) => **wide == *"/",
        (wide, PathMatch::Exact(path) | PathMatch::Prefix(path)) => wide.matches(path),
    };
    let any = wide.methods.is_empty() && !narrow.methods.contains(&http::Method::CONNECT);
    let listed =
        !narrow.methods.is_empty() && narrow.methods.iter().all(|method| wide.methods.contains(method));
    let within = |condition| narrow.routing.conditions.contains(condition);
    path && (any || listed) && wide.routing.conditions.iter().all(within)
}

fn rule(
    mut raw: raw::Rule,
    position: usize,
    at: &Place<'_>,
    scope: &Scope<'_>,
    common: &[RequestLimit],
    names: &mut LimitNames,
) -> Option<Rule> {
    let proofs = Proofs::asked_for(raw.require.as_ref(), at);
    let access = access::access(&mut raw, at, &proofs);
    let matched = at.optional("match", raw.matches.take(), |mut matches, at| {
        let conditions = conditions(&mut matches, at);
        let path = at.optional("path", matches.path, path);
        let methods = matches.methods.map(|list| list.0);
        let methods = values(distinct_of(at, "methods", methods, parse_method));
        // What is wrong is no match for everything.
        let is_whole = path.is_some() || !at.mentions("path");
        is_whole.then_some((path, methods, conditions))
    });
    let is_whole = matched.is_some() || !at.mentions("match");
    let (path, methods, conditions) = matched.unwrap_or_default();
    let path = path.unwrap_or_else(|| PathMatch::Prefix("/".into()));
    let routing = routing(&mut raw, &path, conditions, at, scope.known);
    let destination = destination(&mut raw, &path, &scope.hosts, at, scope.known);
    let require = requirement(raw.require, at, scope.known);
    if let (Some(destination), true) = (&destination, routing.upgrade.contains(&Upgrade::WebSocket)) {
        for each in destination.services() {
            scope.known.check_upgrade(&each.service, at);
        }
    }
    let methods = if routing.upgrade.contains(&Upgrade::Connect) {
        connects(at);
        vec![http::Method::CONNECT]
    } else {
        methods
    };
    let within = duration_within(Duration::from_millis(1), Duration::from_secs(3600));
    let timeout = at.optional("timeout", raw.timeout, within);
    let max_body = at.optional("maxBody", raw.max_body, max_body);
    let list = raw.limits.unwrap_or_default();
    if list.len() + common.len() > LIMITS_PER_RULE {
        at.field("limits").error(format!(
            "a rule has at most {LIMITS_PER_RULE} limits, together with its route's"
        ));
    }
    let prefix = format!("{}-{position}", scope.route);
    let own = limits(list, &prefix, at, &proofs, Of::Rule, names);
    let by_service = own.iter().any(|limit| limit.per.contains(&RequestKey::Service));
    if by_service && matches!(destination, Some(Destination::Redirect(_))) {
        at.field("limits").error_with(
            "a limit is kept by service, and the rule redirects",
            "write `per: rule`",
        );
    }
    is_whole.then_some(())?;
    Some(Rule {
        path,
        methods,
        require,
        access,
        limits: common.iter().cloned().chain(own).collect(),
        destination: destination?,
        timeout: timeout.unwrap_or(Duration::from_secs(15)),
        max_body: max_body.unwrap_or(1 << 20),
        routing,
    })
}

/// A rule for CONNECT is about nothing else: its target has no path, and what follows is no HTTP that is seen.
fn connects(at: &Place<'_>) {
    if at.field("upgrade").items().len() > 1 {
        at.field("upgrade").error_with(
            "a rule for CONNECT is for no other method",
            "write one rule with `upgrade: connect`, and another with the rest",
        );
    }
    let matched = at.field("match");
    for (place, key) in [
        (&matched, "path"),
        (&matched, "methods"),
        (&matched, "query"),
        (at, "redirect"),
        (at, "rewrite"),
        (at, "forward"),
        (at, "requestHeaders"),
        (at, "responseHeaders"),
        (at, "maxBody"),
    ] {
        if place.mentions(key) {
            place.field(key).error_with(
                "a request by CONNECT has nothing of it, and services get bytes alone",
                format!("leave out `{key}`, or `upgrade: connect`"),
            );
        }
    }
}

/// The limits that all rules of the route share. What they are keyed by, all rules must require.
fn common_limits(
    raw: &mut raw::Route,
    at: &Place<'_>,
    scope: &Scope<'_>,
    names: &mut LimitNames,
) -> Vec<RequestLimit> {
    let list = raw.limits.take().unwrap_or_default();
    let rules = at.field("rules").items();
    let asked = raw.rules.iter().flatten().zip(&rules);
    let proofs = Proofs::of_all(asked.map(|(rule, at)| Proofs::asked_for(rule.require.as_ref(), at)));
    limits(
        list,
        &format!("{}-all", scope.route),
        at,
        &proofs,
        Of::Route,
        names,
    )
}

/// The limits in `limits` of `at`, named `prefix` and their position unless they say otherwise.
fn limits(
    list: Vec<raw::RequestLimit>,
    prefix: &str,
    at: &Place<'_>,
    proofs: &Proofs,
    of: Of,
    names: &mut LimitNames,
) -> Vec<RequestLimit> {
    let mut index = 0..;
    at.each("limits", list, |(raw, at)| {
        let default_name = format!("{prefix}-{}", index.next().unwrap_or(0));
        let built = limit(raw, default_name, &at, proofs, of)?;
        names.claim(Arc::clone(&built.name), &at, |first| {
            format!(
                "the limit at {first} is named `{}` too: give one of them another name",
                built.name
            )
        });
        Some(built)
    })
}

/// A path that is written with other escapes than the normal form is taken for that form, for one release.
fn path_of<S: AsRef<str>>(
    parse: impl FnOnce(&str) -> Result<PathMatch, String>,
    text: S,
    at: &Place<'_>,
) -> Option<PathMatch> {
    let text = text.as_ref();
    match other_escapes(text) {
        None => parsed(parse)(text, at),
        Some(right) => {
            at.outdated(
                format!("`{text}` is not in the normal form, in which paths are matched and forwarded"),
                format!("write `{right}`, which it is taken for"),
            );
            parsed(parse)(right, at)
        }
    }
}

fn path(raw: raw::PathMatch, at: &Place<'_>) -> Option<PathMatch> {
    match raw {
        raw::PathMatch::Prefix(text) => path_of(PathMatch::prefix, text, &at.field("prefix")),
        raw::PathMatch::Exact(text) => path_of(PathMatch::exact, text, &at.field("exact")),
        raw::PathMatch::Regex(text) => parsed(PathMatch::regex)(text, &at.field("regex")),
    }
}

/// Methods are case-sensitive (RFC 9110, 9.1): `get` would be another one than GET.
fn parse_method(text: &str) -> Result<http::Method, String> {
    let upper = text.to_ascii_uppercase();
    match http::Method::from_bytes(text.as_bytes()) {
        Ok(http::Method::CONNECT) => Err("a rule for `CONNECT` says `upgrade: connect` instead".to_owned()),
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
