//! The policies that the gateway enforces, one generation at a time.
//!
//! A generation is compiled once and shared by all workers, which only read it. A request keeps the
//! generation that it began with.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::{ArcSwap, Cache};
use http::uri::Authority;
use tokio::{runtime::Handle, sync::watch};

use super::{
    identity::verifier::Verifier,
    router::{Router, RuleIndex},
    upstream::endpoint::SharedEndpoint,
};
use crate::policy::model::{PolicySet, Route, Rule};

/// What is in force; clones stand for the same.
#[derive(Clone, Debug)]
pub struct Policies {
    current: Arc<ArcSwap<Generation>>,
    changed: watch::Sender<()>,
    replacing: Arc<Mutex<()>>,
    runtime: Handle,
}

/// A compiled policy set.
#[derive(Debug)]
pub struct Generation {
    pub set: PolicySet,
    pub(super) router: Router,
    pub(super) verifier: Verifier,
    /// The endpoints of each service, in the order of [`PolicySet::services`].
    pub(super) endpoints: Vec<Vec<Arc<SharedEndpoint>>>,
    /// For each route and rule the position of its service; `None` denies.
    services: Vec<Vec<Option<usize>>>,
}

/// A worker's view of [`Policies`], which costs no shared write to look at.
pub(super) type Latest = Cache<Arc<ArcSwap<Generation>>, Arc<Generation>>;

impl Policies {
    /// Puts `set` in force. The keys of its issuers are read on `runtime`.
    #[must_use]
    pub fn new(set: PolicySet, runtime: Handle) -> Self {
        Self {
            current: Arc::new(ArcSwap::from_pointee(Generation::compile(set, None, &runtime))),
            changed: watch::Sender::new(()),
            replacing: Arc::default(),
            runtime,
        }
    }

    /// Puts `set` in force instead of what is. Requests that have begun end under the old one. What
    /// is known of endpoints and issuers that stay is kept.
    pub fn replace(&self, set: PolicySet) {
        let _one_at_a_time = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.current.load_full();
        self.current
            .store(Arc::new(Generation::compile(set, Some(&old), &self.runtime)));
        self.changed.send_replace(());
    }

    /// What is in force now.
    #[must_use]
    pub fn current(&self) -> Arc<Generation> {
        self.current.load_full()
    }

    pub(super) fn latest(&self) -> Latest {
        Cache::new(Arc::clone(&self.current))
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

impl Generation {
    fn compile(set: PolicySet, old: Option<&Self>, runtime: &Handle) -> Self {
        let known: HashMap<_, _> = old
            .into_iter()
            .flat_map(|old| &old.endpoints)
            .flatten()
            .map(|known| ((&known.service, &known.authority), known))
            .collect();
        let endpoints = set.services.iter().map(|service| {
            let endpoint = |authority: &Authority| {
                known
                    .get(&(&service.name, authority))
                    .filter(|known| known.is_checked_by(service.health.as_ref()))
                    .map(|known| Arc::clone(known))
                    .unwrap_or_else(|| {
                        let (name, health) = (service.name.clone(), service.health.clone());
                        Arc::new(SharedEndpoint::new(name, authority.clone(), health))
                    })
            };
            service
                .endpoints
                .iter()
                .map(|each| endpoint(&each.authority))
                .collect()
        });
        let positions: HashMap<_, _> = set
            .services
            .iter()
            .enumerate()
            .map(|(position, service)| (&service.name, position))
            .collect();
        let position = |rule: &Rule| positions.get(&rule.service).copied();
        Self {
            router: Router::new(&set.routes),
            verifier: Verifier::new(&set.issuers, old.map(|old| &old.verifier), runtime),
            endpoints: endpoints.collect(),
            services: set
                .routes
                .iter()
                .map(|route| route.rules.iter().map(position).collect())
                .collect(),
            set,
        }
    }

    /// The route and the rule at `index`, which comes from this generation's router.
    #[must_use]
    pub fn rule(&self, index: RuleIndex) -> (&Arc<Route>, &Rule) {
        let route = &self.set.routes[index.route];
        (route, &route.rules[index.rule])
    }

    /// The position of the service that the rule leads to.
    #[must_use]
    pub(super) fn service_of(&self, index: RuleIndex) -> Option<usize> {
        self.services[index.route][index.rule]
    }
}
