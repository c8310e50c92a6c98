//! A request among routes: the router finds the rule that a plain reader of the documentation finds.

use percent_encoding::percent_decode_str;
use std::{cmp::Reverse, path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};

use crate::router::{Asked, LONGEST_FOR_REGEX, Router, RuleIndex, Undecided};
use enforcer_http_rules::{host::Host, target::origin_form};
use enforcer_model::{
    Access, Condition, Destination, HostPattern, Mode, Origin, Part, Passthrough, PathMatch, Pattern,
    Requirement, Route, Routing, Rule, Test,
};

/// No more lines are read, and no longer regular expressions: compiling them is what takes time.
const MAX_LINES: usize = 64;
const LONGEST_REGEX: usize = 24;

/// What an input says, a line each; what is not understood says nothing.
struct Input {
    method: Method,
    host: String,
    target: String,
    fields: HeaderMap,
    routes: Vec<Route>,
}

impl Input {
    /// `> METHOD HOST TARGET` and `- NAME VALUE` are the request, `@ HOST…` begins a route, `! HOST…` one that passes TLS
    /// through, `= METHODS PATH`, `/ METHODS PREFIX` and `~ METHODS REGEX` are its rules, and `h NAME TEST VALUE` and
    /// `q NAME TEST VALUE` conditions of the last.
    fn read(text: &str) -> Self {
        let mut input = Self {
            method: Method::GET,
            host: "a".to_owned(),
            target: "/".to_owned(),
            fields: HeaderMap::new(),
            routes: Vec::new(),
        };
        for line in text.lines().take(MAX_LINES) {
            // Some lines are no good; that is what fuzzers write.
            let _understood = input.take(line);
        }
        input
    }

    fn take(&mut self, line: &str) -> Option<()> {
        let (kind, rest) = line.split_once(' ')?;
        let mut words = rest.splitn(3, ' ');
        match kind {
            ">" => {
                self.method = words.next()?.parse().ok()?;
                words.next()?.clone_into(&mut self.host);
                words.next()?.clone_into(&mut self.target);
            }
            "-" => {
                let (name, value) = rest.split_once(' ')?;
                let name: HeaderName = name.parse().ok()?;
                self.fields.append(name, HeaderValue::from_str(value).ok()?);
            }
            "@" | "!" => {
                let hosts: Vec<_> = rest.split(' ').filter_map(|host| host.parse().ok()).collect();
                let name = format!("r{}", self.routes.len());
                self.routes.push(route(&name, hosts, kind == "!")?);
            }
            "=" | "/" | "~" => {
                let methods = match words.next()? {
                    "*" => Vec::new(),
                    some => some.split(',').filter_map(|name| name.parse().ok()).collect(),
                };
                let path = words.next()?;
                let path = match kind {
                    "=" => PathMatch::exact(path).ok()?,
                    "/" => PathMatch::prefix(path).ok()?,
                    _ => PathMatch::Regex(short(path)?),
                };
                self.routes.last_mut()?.rules.push(rule(path, methods)?);
            }
            "h" | "q" => {
                let name = words.next()?;
                let part = match kind {
                    "h" => Part::Header(name.parse().ok()?),
                    _ => Part::Query(name.into()),
                };
                let (test, value) = (words.next()?, words.next());
                let test = match (test, value) {
                    ("=", Some(value)) => Test::Exact(value.into()),
                    ("^", Some(value)) => Test::Prefix(value.into()),
                    ("~", Some(value)) => Test::Regex(short(value)?),
                    ("+", None) => Test::Present(true),
                    ("-", None) => Test::Present(false),
                    _ => return None,
                };
                let rule = self.routes.last_mut()?.rules.last_mut()?;
                rule.routing.conditions.push(Condition { part, test });
            }
            _ => {}
        }
        Some(())
    }
}

fn short(text: &str) -> Option<Pattern> {
    Pattern::new(text).ok().filter(|_| text.len() <= LONGEST_REGEX)
}

fn route(name: &str, hosts: Vec<HostPattern>, passes: bool) -> Option<Route> {
    let passthrough = passes.then_some(Passthrough {
        proxy_protocol: false,
    });
    Some(Route {
        name: name.parse().ok()?,
        origin: Origin {
            file: PathBuf::from("fuzz.yaml"),
            line: 1,
        },
        mode: Mode::Enforce,
        listeners: Vec::new(),
        hosts,
        rules: Vec::new(),
        passthrough,
    })
}

fn rule(path: PathMatch, methods: Vec<Method>) -> Option<Rule> {
    Some(Rule {
        path,
        methods,
        require: Requirement::Anybody,
        access: Access::default(),
        limits: Vec::new(),
        destination: Destination::to("s".parse().ok()?),
        timeout: Duration::from_secs(1),
        max_body: 0,
        routing: Routing::default(),
    })
}

/// A request and routes: both readers find the same rule.
pub fn routes(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let input = Input::read(text);
    let Ok(value) = HeaderValue::from_str(&input.host) else {
        return;
    };
    let named = HeaderMap::from_iter([(header::HOST, value)]);
    let Ok(host) = Host::of(&Uri::from_static("/"), &named) else {
        return;
    };
    let target = Uri::try_from(&input.target).ok();
    let Some(target) = target.and_then(|uri| origin_form(uri).ok()) else {
        return;
    };
    let Ok(listener) = "main".parse() else {
        return;
    };
    let asked = Asked {
        host: host.name(),
        path: target.path(),
        query: target.query(),
        method: &input.method,
        fields: &input.fields,
        listener: &listener,
    };
    let routes: Vec<_> = input.routes.into_iter().map(Arc::new).collect();
    let router = Router::new(&routes);
    let found = router.find(&asked, router.patterns());
    assert_eq!(found, plain(&routes, &asked), "{asked:?}");
    assert_eq!(
        router.passthrough(asked.host, asked.listener),
        passing(&routes, asked.host),
        "{asked:?}"
    );
    assert_eq!(router.passes(), routes.iter().any(|route| passes(route)));
}

fn passes(route: &Route) -> bool {
    route.passthrough.is_some() && !route.hosts.is_empty()
}

/// How specific a pattern is.
fn specificity(pattern: &HostPattern) -> (u8, usize) {
    match pattern {
        HostPattern::Exact(_) => (2, 0),
        HostPattern::Suffix(suffix) => (1, suffix.len()),
        HostPattern::Any => (0, 0),
    }
}

/// The routes that have the most specific pattern for `host`, with their positions.
fn of_host<'a>(routes: &'a [Arc<Route>], host: &str) -> Vec<(usize, &'a Route)> {
    let most = |route: &Route| {
        let fitting = route.hosts.iter().filter(|pattern| pattern.matches(host));
        fitting.map(specificity).max()
    };
    let best = routes.iter().filter_map(|route| most(route)).max();
    let has_it = |route: &Route| best.is_some() && most(route) == best;
    let all = routes.iter().map(AsRef::as_ref).enumerate();
    all.filter(|(_, route)| has_it(route)).collect()
}

fn passing(routes: &[Arc<Route>], host: &str) -> Option<RuleIndex> {
    let (route, _) = of_host(routes, host)
        .into_iter()
        .find(|(_, route)| route.passthrough.is_some())?;
    Some(RuleIndex { route, rule: 0 })
}

/// The rule that decides, in the documented order: the most specific host alone; of each of its routes the first rule
/// that fits; of these the most specific path, then the first route. Nobody tries expressions on long paths, and which
/// of several values of a parameter counts is not for the gateway to say.
pub fn plain(routes: &[Arc<Route>], asked: &Asked<'_>) -> Result<Option<RuleIndex>, Undecided> {
    let mut routes = of_host(routes, asked.host);
    routes.retain(|(_, route)| route.passthrough.is_none());
    let mut rules = routes.iter().flat_map(|(_, route)| &route.rules);
    let has_regex = rules.clone().any(|rule| matches!(rule.path, PathMatch::Regex(_)));
    if has_regex && asked.path.len() > LONGEST_FOR_REGEX {
        return Err(Undecided::TooLong);
    }
    if rules.any(|rule| is_unclear(rule, asked)) {
        return Err(Undecided::Repeated);
    }
    let mut offers = Vec::new();
    for (index, route) in routes {
        if !route.is_served_at(asked.listener) {
            continue;
        }
        if let Some(rule) = route.rules.iter().position(|rule| fits(rule, asked)) {
            let length = match &route.rules[rule].path {
                PathMatch::Exact(_) => usize::MAX,
                PathMatch::Prefix(prefix) => prefix.len(),
                PathMatch::Regex(_) => 0,
            };
            offers.push((Reverse(length), RuleIndex { route: index, rule }));
        }
    }
    Ok(offers.into_iter().min().map(|(_, at)| at))
}

/// Whether it fits but for the value of a parameter that has several.
fn is_unclear(rule: &Rule, asked: &Asked<'_>) -> bool {
    let of_several = |condition: &&Condition| match &condition.part {
        Part::Query(name) => {
            !matches!(condition.test, Test::Present(_)) && parameters(asked.query, name).nth(1).is_some()
        }
        Part::Header(_) => false,
    };
    let (unclear, clear): (Vec<_>, Vec<_>) = rule.routing.conditions.iter().partition(of_several);
    let mut without = rule.clone();
    without.routing.conditions = clear.into_iter().cloned().collect();
    !unclear.is_empty() && fits(&without, asked)
}

fn fits(rule: &Rule, asked: &Asked<'_>) -> bool {
    let method = if rule.methods.is_empty() {
        *asked.method != Method::CONNECT
    } else {
        rule.methods.contains(asked.method)
    };
    method && rule.path.matches(asked.path) && rule.routing.conditions.iter().all(|each| holds(each, asked))
}

fn holds(condition: &Condition, asked: &Asked<'_>) -> bool {
    let value = match &condition.part {
        Part::Header(name) => {
            let values = asked.fields.get_all(name).iter();
            let values: Vec<&[u8]> = values.map(HeaderValue::as_bytes).collect();
            let between = if *name == header::COOKIE { "; " } else { ", " };
            (!values.is_empty()).then(|| values.join(between.as_bytes()))
        }
        Part::Query(name) => parameters(asked.query, name).next().map(String::into_bytes),
    };
    match (&condition.test, value) {
        (Test::Present(wanted), value) => value.is_some() == *wanted,
        (Test::Exact(text), Some(value)) => value == text.as_bytes(),
        (Test::Prefix(text), Some(value)) => value.starts_with(text.as_bytes()),
        (Test::Regex(pattern), Some(value)) => pattern.matches(&value),
        (_, None) => false,
    }
}

/// The values of a parameter.
fn parameters(query: Option<&str>, name: &str) -> impl Iterator<Item = String> {
    let pairs = query.unwrap_or_default().split('&');
    let pairs = pairs.filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs
        .filter(move |(key, _)| decoded(key) == name)
        .map(|(_, value)| decoded(value))
}

/// A part of a query as its writer meant it.
fn decoded(text: &str) -> String {
    let bytes = percent_decode_str(&text.replace('+', " ")).collect::<Vec<u8>>();
    String::from_utf8_lossy(&bytes).into_owned()
}
