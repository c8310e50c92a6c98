//! Finds the rule that decides a request.
//!
//! The most specific host pattern that fits decides alone: an exact name before a suffix, a longer
//! suffix before a shorter one, `*` last. What its routes do not admit is not looked up under a less
//! specific pattern, so that a catch-all route opens nothing on a host that has routes of its own.
//! Among the routes of that pattern each offers its first rule, in order, that fits path and method;
//! of these the most specific path wins (exact, then the longest prefix), then the route that comes
//! first by name.
//!
//! A look-up costs one hash for each segment of the path, however many routes there are.

use std::{collections::HashMap, sync::Arc};

use http::Method;

use crate::policy::model::{HostPattern, PathMatch, Route};

/// Where a rule stands in the policy set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleIndex {
    /// In [`crate::policy::model::PolicySet::routes`].
    pub route: usize,
    /// In [`Route::rules`].
    pub rule: usize,
}

/// A compiled set of routes.
#[derive(Debug, Default)]
pub struct Router {
    exact: HashMap<Arc<str>, Paths>,
    suffixes: HashMap<Arc<str>, Paths>,
    any: Option<Paths>,
}

/// The rules of one host pattern.
#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<Arc<str>, Vec<Entry>>,
    prefixes: HashMap<Arc<str>, Vec<Entry>>,
    /// No prefix is longer, so a long path costs no more look-ups than the longest prefix.
    longest_prefix: usize,
}

/// A rule at a path.
#[derive(Debug)]
struct Entry {
    at: RuleIndex,
    /// Empty: any.
    methods: Vec<Method>,
}

impl Router {
    /// Compiles `routes`.
    #[must_use]
    pub fn new(routes: &[Arc<Route>]) -> Self {
        let mut router = Self::default();
        for (route_index, route) in routes.iter().enumerate() {
            for host in &route.hosts {
                let paths = match host {
                    HostPattern::Exact(name) => router.exact.entry(Arc::clone(name)).or_default(),
                    HostPattern::Suffix(suffix) => router.suffixes.entry(Arc::clone(suffix)).or_default(),
                    HostPattern::Any => router.any.get_or_insert_default(),
                };
                for (rule, each) in route.rules.iter().enumerate() {
                    let at = RuleIndex {
                        route: route_index,
                        rule,
                    };
                    paths.insert(
                        &each.path,
                        Entry {
                            at,
                            methods: each.methods.clone(),
                        },
                    );
                }
            }
        }
        router
    }

    /// The rule that decides a request for the normalised `path` at `host`, in lower case, without port.
    #[must_use]
    pub fn find(&self, host: &str, path: &str, method: &Method) -> Option<RuleIndex> {
        self.paths(host)?.find(path, method)
    }

    fn paths(&self, host: &str) -> Option<&Paths> {
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
    fn insert(&mut self, path: &PathMatch, entry: Entry) {
        let entries = match path {
            PathMatch::Exact(exact) => self.exact.entry(Arc::clone(exact)),
            PathMatch::Prefix(prefix) => {
                self.longest_prefix = self.longest_prefix.max(prefix.len());
                self.prefixes.entry(Arc::clone(prefix))
            }
        };
        entries.or_default().push(entry);
    }

    fn find(&self, path: &str, method: &Method) -> Option<RuleIndex> {
        let mut choice = Choice::default();
        if let Some(entries) = self.exact.get(path) {
            choice.consider(entries, method);
        }
        if self.longest_prefix > 0 {
            let mut end = path.len();
            loop {
                if end <= self.longest_prefix
                    && let Some(entries) = self.prefixes.get(&path[..end])
                {
                    choice.consider(entries, method);
                }
                match path[..end].rfind('/') {
                    None | Some(0) => break,
                    Some(slash) => end = slash,
                }
            }
            if path.len() > 1
                && let Some(entries) = self.prefixes.get("/")
            {
                choice.consider(entries, method);
            }
        }
        choice.decide()
    }
}

/// Each route's first rule that fits, with the specificity of its path: lower is more specific.
#[derive(Default)]
struct Choice {
    offers: Vec<(RuleIndex, usize)>,
    rank: usize,
}

impl Choice {
    /// Takes in the rules of the next path, which is less specific than those before.
    fn consider(&mut self, entries: &[Entry], method: &Method) {
        self.rank += 1;
        for entry in entries {
            if !entry.methods.is_empty() && !entry.methods.contains(method) {
                continue;
            }
            match self.offers.iter_mut().find(|(at, _)| at.route == entry.at.route) {
                None => self.offers.push((entry.at, self.rank)),
                Some(offer) if entry.at.rule < offer.0.rule => *offer = (entry.at, self.rank),
                Some(_) => {}
            }
        }
    }

    fn decide(self) -> Option<RuleIndex> {
        self.offers
            .into_iter()
            .min_by_key(|&(at, rank)| (rank, at.route))
            .map(|(at, _)| at)
    }
}

#[cfg(test)]
#[path = "router_tests.rs"]
mod tests;
