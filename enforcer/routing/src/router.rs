//! Finds the rule that decides a request.
//!
//! The most specific host pattern that fits decides alone: an exact name before a suffix, a longer
//! suffix before a shorter one, `*` last. What its routes do not admit is not looked up under a less
//! specific pattern, so that a catch-all route opens nothing on a host that has routes of its own.
//! Among the routes of that pattern each offers its first rule, in order, that fits path, method and
//! conditions; of these the most specific path wins (exact, then the longest prefix, then regular
//! expressions), then the route that comes first by name. A route that is not served at the request's listener offers
//! nothing there; that it has the host still hides less specific patterns, so that what one listener does not serve is
//! not served by a catch-all either.
//!
//! A look-up costs one hash for each segment of the path, however many routes there are, and a match
//! for each regular expression that is a path at the host's pattern. Conditions are only looked at
//! where path and method fit.
//!
//! Where the request's readers might disagree about what a rule asks for, no rule decides: see [`Undecided`].

use std::{collections::HashMap, iter, sync::Arc};

use foldhash::fast::RandomState;
use http::{HeaderMap, Method, StatusCode};

use super::{
    conditions::{self, Compiled, Met},
    mentioned::Mentioned,
};
use enforcer_model::{HostPattern, Name, PathMatch, Pattern, Route};

/// What policies say of hosts and paths. Only they enter anything, so nobody can make a look-up long, and the hash
/// may be a quick one.
type ByText<T> = HashMap<Arc<str>, T, RandomState>;

/// Where a rule stands in the policy set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleIndex {
    /// In [`enforcer_model::PolicySet::routes`].
    pub route: usize,
    /// In [`Route::rules`].
    pub rule: usize,
}

/// The longest path that regular expressions are tried on, in bytes: each takes a time that grows with it.
pub const LONGEST_FOR_REGEX: usize = 8192;

/// Why no rule decides a request, which is refused then: another rule would be one that it was not written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecided {
    #[error("the query has a parameter more than once whose value decides here: send it once")]
    Repeated,
    #[error("the path is longer than {LONGEST_FOR_REGEX} bytes")]
    TooLong,
}

impl Undecided {
    pub fn status(self) -> StatusCode {
        match self {
            Self::Repeated => StatusCode::BAD_REQUEST,
            Self::TooLong => StatusCode::URI_TOO_LONG,
        }
    }
}

/// A compiled set of routes.
#[derive(Debug, Default)]
pub struct Router {
    exact: ByText<Paths>,
    suffixes: ByText<Paths>,
    any: Option<Paths>,
    patterns: Vec<Pattern>,
    passes: bool,
    /// The fields that each route mentions.
    mentioned: Vec<Mentioned>,
    /// The methods that rules name, each once.
    methods: Vec<Method>,
}

/// What is looked at in a request.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// In lower case, without port.
    pub host: &'a str,
    /// Normalised.
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub method: &'a Method,
    pub fields: &'a HeaderMap,
    /// Where it has come in.
    pub listener: &'a Name,
}

/// The rules of one host pattern.
#[derive(Debug, Default)]
pub struct Paths {
    exact: ByText<Vec<Entry>>,
    prefixes: ByText<Vec<Entry>>,
    /// Each with the position of its pattern.
    regexes: Vec<(usize, Entry)>,
    /// No prefix is longer, so a long path costs no more look-ups than the longest prefix.
    longest_prefix: usize,
    /// The routes that pass TLS for the host through, with their listeners. They have no paths.
    passthrough: Vec<(usize, Box<[Name]>)>,
    /// The fields that its routes mention.
    pub mentioned: Mentioned,
}

/// A rule at a path.
#[derive(Debug)]
struct Entry {
    at: RuleIndex,
    /// Empty: any.
    methods: Vec<Method>,
    conditions: Box<[Compiled]>,
    /// Empty: all.
    listeners: Box<[Name]>,
}

impl Router {
    /// Compiles `routes`.
    #[must_use]
    pub fn new(routes: &[Arc<Route>]) -> Self {
        let mut router = Self::default();
        let mut patterns = Vec::new();
        for (route_index, route) in routes.iter().enumerate() {
            let mentioned = Mentioned::by(route);
            for method in route.rules.iter().flat_map(|rule| &rule.methods) {
                if !router.methods.contains(method) {
                    router.methods.push(method.clone());
                }
            }
            for host in &route.hosts {
                let paths = match host {
                    HostPattern::Exact(name) => router.exact.entry(Arc::clone(name)).or_default(),
                    HostPattern::Suffix(suffix) => router.suffixes.entry(Arc::clone(suffix)).or_default(),
                    HostPattern::Any => router.any.get_or_insert_default(),
                };
                if route.passthrough.is_some() {
                    let listeners = route.listeners.clone().into_boxed_slice();
                    paths.passthrough.push((route_index, listeners));
                    router.passes = true;
                    continue;
                }
                paths.mentioned.extend(&mentioned);
                for (rule, each) in route.rules.iter().enumerate() {
                    let at = RuleIndex {
                        route: route_index,
                        rule,
                    };
                    let entry = Entry {
                        at,
                        methods: each.methods.clone(),
                        conditions: conditions::compile(&each.routing.conditions, &mut patterns),
                        listeners: route.listeners.clone().into_boxed_slice(),
                    };
                    paths.insert(&each.path, entry, &mut patterns);
                }
            }
            router.mentioned.push(mentioned);
        }
        Self { patterns, ..router }
    }

    /// The regular expressions of the routes. Each worker has clones of its own, which it gives to [`Self::find`].
    #[must_use]
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// The rule that decides a request. `patterns`: clones of [`Self::patterns`].
    ///
    /// # Errors
    /// Why none can.
    pub fn find(&self, asked: &Asked<'_>, patterns: &[Pattern]) -> Result<Option<RuleIndex>, Undecided> {
        match self.paths(asked.host) {
            Some(paths) => paths.find(asked, patterns),
            None => Ok(None),
        }
    }

    /// The fields that the route at that position mentions.
    pub fn mentioned(&self, route: usize) -> &Mentioned {
        &self.mentioned[route]
    }

    /// The methods that rules name.
    pub fn methods(&self) -> &[Method] {
        &self.methods
    }

    /// Whether any route passes TLS through.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.passes
    }

    /// The rule of the route that passes TLS through for a client that asks for `name`, in lower case, at `listener`: if
    /// the most specific host that fits, of all routes, is one of its.
    #[must_use]
    pub fn passthrough(&self, name: &str, listener: &Name) -> Option<RuleIndex> {
        let passing = &self.paths(name)?.passthrough;
        let (route, _) = passing.iter().find(|(_, at)| is_served(at, listener))?;
        Some(RuleIndex {
            route: *route,
            rule: 0,
        })
    }

    /// What there is for a host.
    pub fn paths(&self, host: &str) -> Option<&Paths> {
        if let Some(paths) = self.exact.get(host) {
            return Some(paths);
        }
        if !self.suffixes.is_empty() {
            // A suffix needs something before it: the first dot may not be the first character.
            for (dot, _) in host.match_indices('.').filter(|&(dot, _)| dot > 0) {
                if let Some(paths) = self.suffixes.get(&host[dot + 1..]) {
                    return Some(paths);
                }
            }
        }
        self.any.as_ref()
    }
}

impl Paths {
    fn insert(&mut self, path: &PathMatch, entry: Entry, patterns: &mut Vec<Pattern>) {
        let entries = match path {
            PathMatch::Exact(exact) => self.exact.entry(Arc::clone(exact)),
            PathMatch::Prefix(prefix) => {
                self.longest_prefix = self.longest_prefix.max(prefix.len());
                self.prefixes.entry(Arc::clone(prefix))
            }
            PathMatch::Regex(pattern) => {
                patterns.push(pattern.clone());
                self.regexes.push((patterns.len() - 1, entry));
                return;
            }
        };
        entries.or_default().push(entry);
    }

    /// As [`Router::find`].
    pub fn find(&self, asked: &Asked<'_>, patterns: &[Pattern]) -> Result<Option<RuleIndex>, Undecided> {
        let mut choice = Choice::default();
        for entries in self.look_ups(asked.path).flatten() {
            choice.consider(entries.iter(), asked, patterns);
        }
        if !self.regexes.is_empty() {
            let path = asked.path.as_bytes();
            if path.len() > LONGEST_FOR_REGEX {
                return Err(Undecided::TooLong);
            }
            let alike = self
                .regexes
                .iter()
                .filter(|(pattern, _)| patterns[*pattern].matches(path));
            choice.consider(alike.map(|(_, entry)| entry), asked, patterns);
        }
        if choice.is_unclear {
            return Err(Undecided::Repeated);
        }
        Ok(choice.decide())
    }

    /// What stands at a path and above it, the most specific first: an item for each look-up.
    fn look_ups<'a>(&'a self, path: &'a str) -> impl Iterator<Item = Option<&'a Vec<Entry>>> {
        let exact = iter::once(self.exact.get(path));
        let above = move |&end: &usize| path[..end].rfind('/').filter(|&slash| slash > 0);
        let prefixes = iter::successors((self.longest_prefix > 0).then_some(path.len()), above)
            .filter(|&end| end <= self.longest_prefix)
            .map(move |end| self.prefixes.get(&path[..end]));
        let root = (self.longest_prefix > 0 && path.len() > 1).then(|| self.prefixes.get("/"));
        exact.chain(prefixes).chain(root)
    }
}

/// Whether what is served at `listeners` is served at one of them.
fn is_served(listeners: &[Name], listener: &Name) -> bool {
    listeners.is_empty() || listeners.contains(listener)
}

/// Each route's first rule that fits, with the specificity of its path: lower is more specific.
#[derive(Default)]
struct Choice {
    /// In most policies there is one route for a path: it needs no list.
    first: Option<(RuleIndex, usize)>,
    others: Vec<(RuleIndex, usize)>,
    rank: usize,
    /// Whether a rule fits or not depends on who reads the request.
    is_unclear: bool,
}

impl Choice {
    /// Takes in the rules of the next path, which is less specific than those before.
    fn consider<'a>(
        &mut self,
        entries: impl Iterator<Item = &'a Entry>,
        asked: &Asked<'_>,
        patterns: &[Pattern],
    ) {
        self.rank += 1;
        for entry in entries {
            // Bytes that nobody looks at are no request: a rule must say that it is about them.
            let any = entry.methods.is_empty() && *asked.method != Method::CONNECT;
            let fits = any || entry.methods.contains(asked.method);
            if !fits || !is_served(&entry.listeners, asked.listener) {
                continue;
            }
            match conditions::all_hold(&entry.conditions, asked, patterns) {
                Met::Yes => {}
                Met::No => continue,
                Met::Unclear => {
                    self.is_unclear = true;
                    continue;
                }
            }
            let offered = (entry.at, self.rank);
            let Some(first) = &mut self.first else {
                self.first = Some(offered);
                continue;
            };
            let mut offers = iter::once(first).chain(&mut self.others);
            match offers.find(|(at, _)| at.route == entry.at.route) {
                None => self.others.push(offered),
                Some(offer) if entry.at.rule < offer.0.rule => *offer = offered,
                Some(_) => {}
            }
        }
    }

    fn decide(self) -> Option<RuleIndex> {
        self.first
            .into_iter()
            .chain(self.others)
            .min_by_key(|&(at, rank)| (rank, at.route))
            .map(|(at, _)| at)
    }
}

#[cfg(test)]
#[path = "router_tests.rs"]
mod tests;
