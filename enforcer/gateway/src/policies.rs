//! The policies that the gateway enforces, one generation at a time.
//!
//! A generation is compiled once and shared by all workers, which only read it. A request keeps the
//! generation that it began with.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use arc_swap::{ArcSwap, Cache};
use tokio::{runtime::Handle, sync::watch};

use super::{
    clock,
    identity::{
        api_key::KeyRing,
        verifier::{IssuerStatus, Verifier},
    },
    limit::{KeyParts, Meter, RequestLimiters, RuleLimits},
    revocation::RevocationStore,
    upstream::{board::Board, consistent::Table, endpoint::SharedEndpoint},
};
use enforcer_model::{Destination, Endpoint, Name, Pattern, PolicySet, Priority, Route, Rule};
use enforcer_routing::router::{Router, RuleIndex};
use enforcer_tls::service::ServiceTls;

/// What is in force; clones stand for the same.
#[derive(Clone, Debug)]
pub struct Policies {
    current: Arc<ArcSwap<Generation>>,
    changed: watch::Sender<()>,
    replacing: Arc<Mutex<()>>,
    revocations: RevocationStore,
    shared: Shared,
}

/// What outlives generations.
#[derive(Clone, Debug)]
struct Shared {
    runtime: Handle,
    limiters: Arc<RequestLimiters>,
    board: Arc<Board>,
    /// Where the clock of the limiters begins.
    start: Instant,
}

/// A compiled policy set.
#[derive(Debug)]
pub struct Generation {
    pub set: PolicySet,
    pub(super) router: Router,
    pub(super) verifier: Verifier,
    pub(super) keys: KeyRing,
    /// The endpoints of each service, in the order of [`PolicySet::services`].
    pub(super) endpoints: Vec<Vec<Arc<SharedEndpoint>>>,
    /// How `https` endpoints of each service are spoken to, in the same order.
    pub(super) tls: Vec<Option<Arc<ServiceTls>>>,
    /// Where keys lead, of services that hash, in the same order.
    pub(super) tables: Vec<Option<Arc<Table>>>,
    /// All regular expressions; those of the router come first. Each worker has clones of its own.
    pub(super) patterns: Vec<Pattern>,
    rules: Vec<Vec<Bound>>,
    /// Where the requests of all rules go.
    targets: Vec<Target>,
    start: Instant,
}

/// What a rule's names stand for.
#[derive(Debug)]
struct Bound {
    /// The positions of its targets: at least one.
    targets: Range<usize>,
    /// The sum of their weights.
    weight: u32,
    /// The position of the pattern by which it changes paths.
    pattern: Option<usize>,
    /// The position of the service that gets copies.
    mirror: Option<usize>,
}

/// A service that a rule leads to.
#[derive(Debug)]
struct Target {
    /// Its position. `None`: there is none; it redirects, or denies.
    service: Option<usize>,
    weight: u32,
    /// How much of the service's bound of requests may be filled with the rule's, in percent.
    room: u8,
    /// The rule's, where they are by service those of this one.
    limits: RuleLimits,
}

/// An endpoint that gets no requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnusedEndpoint {
    pub service: Name,
    pub endpoint: String,
    /// Its health checks fail.
    pub unhealthy: bool,
    /// Requests failed there, so it is left alone for a while.
    pub ejected: bool,
}

/// A worker's view of [`Policies`], which costs no shared write to look at.
pub(super) type Latest = Cache<Arc<ArcSwap<Generation>>, Arc<Generation>>;

impl Policies {
    /// Puts `set` in force. The keys of its issuers are read on `runtime`.
    #[must_use]
    pub fn new(set: PolicySet, runtime: Handle) -> Self {
        let shared = Shared {
            runtime,
            limiters: Arc::default(),
            board: Arc::default(),
            start: Instant::now(),
        };
        let revocations = RevocationStore::default();
        revocations.replace_files(&set.revocations);
        Self {
            current: Arc::new(ArcSwap::from_pointee(Generation::compile(set, None, &shared))),
            changed: watch::Sender::new(()),
            replacing: Arc::default(),
            revocations,
            shared,
        }
    }

    /// Puts `set` in force instead of what is. Requests that have begun end under the old one. What
    /// is known of endpoints and issuers that stay is kept.
    pub fn replace(&self, set: PolicySet) {
        let _one_at_a_time = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        // Before rules that might admit what is revoked.
        self.revocations.replace_files(&set.revocations);
        let old = self.current.load_full();
        self.current
            .store(Arc::new(Generation::compile(set, Some(&old), &self.shared)));
        self.changed.send_replace(());
    }

    /// What is in force now.
    #[must_use]
    pub fn current(&self) -> Arc<Generation> {
        self.current.load_full()
    }

    /// Which proofs are revoked.
    #[must_use]
    pub fn revocations(&self) -> &RevocationStore {
        &self.revocations
    }

    /// Which endpoints get no requests now.
    #[must_use]
    pub fn unused_endpoints(&self) -> Vec<UnusedEndpoint> {
        let current = self.current();
        let endpoints = current.endpoints.iter().flatten();
        let unused = endpoints.filter(|endpoint| !endpoint.is_usable());
        unused
            .map(|endpoint| UnusedEndpoint {
                service: endpoint.service.clone(),
                endpoint: endpoint.authority.to_string(),
                unhealthy: !endpoint.is_healthy(),
                ejected: endpoint.is_ejected(),
            })
            .collect()
    }

    /// How the keys of issuers are, in order of name. Issuers that are asked have none.
    #[must_use]
    pub fn issuers(&self) -> Vec<IssuerStatus> {
        self.current().verifier.status()
    }

    pub(super) fn latest(&self) -> Latest {
        Cache::new(Arc::clone(&self.current))
    }

    pub(super) fn board(&self) -> &Board {
        &self.shared.board
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

impl Generation {
    fn compile(set: PolicySet, old: Option<&Self>, shared: &Shared) -> Self {
        let known: HashMap<_, _> = old
            .into_iter()
            .flat_map(|old| &old.endpoints)
            .flatten()
            .map(|known| ((&known.service, &known.authority), known))
            .collect();
        let before: HashMap<_, _> = old
            .into_iter()
            .flat_map(|old| old.set.services.iter().zip(&old.tables))
            .map(|(service, table)| (&service.name, (service, table)))
            .collect();
        let known_tls: HashMap<_, _> = old
            .into_iter()
            .flat_map(|old| old.set.services.iter().zip(&old.tls))
            .filter_map(|(service, tls)| Some((&service.name, tls.as_ref()?)))
            .collect();
        let tls: Vec<Option<Arc<ServiceTls>>> = set
            .services
            .iter()
            .map(|service| {
                let (law, protocol) = (&service.tls, service.protocol);
                let known = known_tls
                    .get(&service.name)
                    .filter(|tls| tls.keeps(law, protocol));
                let new = || ServiceTls::new(&service.name, law, protocol);
                let is_used = service.endpoints.iter().any(|endpoint| endpoint.https);
                is_used.then(|| known.map_or_else(new, |known| Arc::clone(known)))
            })
            .collect();
        let endpoints = set.services.iter().zip(&tls).map(|(service, tls)| {
            let joins = before.contains_key(&service.name);
            let renewed = |Endpoint { authority, https, .. }: &Endpoint| {
                let known = known.get(&(&service.name, authority)).copied();
                let tls = tls.as_ref().filter(|_| *https);
                SharedEndpoint::renewed(service, authority, tls, known, joins, &shared.board)
            };
            service.endpoints.iter().map(renewed).collect()
        });
        let endpoints = endpoints.collect();
        let tables = set
            .services
            .iter()
            .map(|service| match before.get(&service.name) {
                Some((old, table))
                    if old.balance == service.balance && old.endpoints == service.endpoints =>
                {
                    (*table).clone()
                }
                _ => Table::new(&service.balance, &service.endpoints).map(Arc::new),
            });
        let positions: HashMap<_, _> = set
            .services
            .iter()
            .enumerate()
            .map(|(position, service)| (&service.name, position))
            .collect();
        let priorities = priorities(&set);
        let router = Router::new(&set.routes);
        let mut patterns = router.patterns().to_vec();
        let mut targets = Vec::new();
        let mut bind = |route: &Route, rule: &Rule| {
            let first = targets.len();
            let mut lead_to = |service: Option<&Name>, weight| {
                targets.push(Target {
                    service: service.and_then(|service| positions.get(service).copied()),
                    weight,
                    room: room(&priorities, service, rule.routing.priority),
                    limits: shared.limiters.bind(&route.name, service, &rule.limits),
                });
            };
            match &rule.destination {
                Destination::Services(services) => {
                    services
                        .iter()
                        .for_each(|each| lead_to(Some(&each.service), each.weight));
                }
                Destination::Redirect(_) => lead_to(None, 1),
            }
            let pattern = rule.pattern().map(|pattern| {
                patterns.push(pattern.clone());
                patterns.len() - 1
            });
            Bound {
                targets: first..targets.len(),
                weight: targets[first..].iter().map(|target| target.weight).sum(),
                pattern,
                mirror: rule
                    .routing
                    .mirror
                    .as_ref()
                    .and_then(|mirror| positions.get(&mirror.service).copied()),
            }
        };
        let rules = set.routes.iter();
        let rules = rules
            .map(|route| route.rules.iter().map(|rule| bind(route, rule)).collect())
            .collect();
        Self {
            router,
            patterns,
            targets,
            verifier: Verifier::new(&set.issuers, old.map(|old| &old.verifier), &shared.runtime),
            keys: KeyRing::new(&set.api_keys),
            endpoints,
            tables: tables.collect(),
            tls,
            rules,
            start: shared.start,
            set,
        }
    }

    /// The route and the rule at `index`, which comes from this generation's router.
    #[must_use]
    pub fn rule(&self, index: RuleIndex) -> (&Arc<Route>, &Rule) {
        let route = &self.set.routes[index.route];
        (route, &route.rules[index.rule])
    }

    /// Chooses where a request of the rule goes: the position of a target, by weight.
    pub(super) fn choose(&self, index: RuleIndex) -> usize {
        let Bound { targets, weight, .. } = &self.rules[index.route][index.rule];
        if targets.len() == 1 {
            return targets.start;
        }
        let mut lot = fastrand::u32(..(*weight).max(1));
        let chosen = targets.clone().find(|&target| {
            let weight = self.targets[target].weight;
            let is_here = lot < weight;
            lot = lot.saturating_sub(weight);
            is_here
        });
        chosen.unwrap_or(targets.start)
    }

    /// How many targets there are.
    pub(super) fn targets(&self) -> usize {
        self.targets.len()
    }

    /// The position of the service that is a target.
    pub(super) fn service_of(&self, target: usize) -> Option<usize> {
        self.targets[target].service
    }

    /// How much of its bound of requests may be filled by way of the target, in percent.
    pub(super) fn room(&self, target: usize) -> u8 {
        self.targets[target].room
    }

    /// The name of the service that is a target of the rule.
    pub(super) fn service_name(&self, index: RuleIndex, target: usize) -> Option<&Name> {
        let first = self.rules[index.route][index.rule].targets.start;
        let services = self.rule(index).1.destination.services();
        services.get(target - first).map(|each| &each.service)
    }

    /// The position of the service that gets copies of the rule's requests.
    pub(super) fn mirror_of(&self, index: RuleIndex) -> Option<usize> {
        self.rules[index.route][index.rule].mirror
    }

    /// The position of the pattern by which the rule changes paths.
    pub(super) fn pattern_of(&self, index: RuleIndex) -> Option<usize> {
        self.rules[index.route][index.rule].pattern
    }

    /// The limits of requests to the target.
    pub(super) fn limits(&self, target: usize) -> &RuleLimits {
        &self.targets[target].limits
    }

    /// What takes the bytes of a response from the target's limits that count them.
    pub(super) fn meter(&self, target: usize, keys: &KeyParts<'_>) -> Option<Meter> {
        self.limits(target).meter(keys, self.start)
    }

    /// The time by which limits count: the same for all workers and generations.
    pub(super) fn now_ns(&self) -> u64 {
        // 584 years.
        u64::try_from((clock::now().into_std().saturating_duration_since(self.start)).as_nanos())
            .unwrap_or(u64::MAX)
    }
}

/// The priorities of the rules that lead to each service.
fn priorities(set: &PolicySet) -> HashMap<Name, BTreeSet<Priority>> {
    let mut priorities: HashMap<Name, BTreeSet<Priority>> = HashMap::new();
    for rule in set.routes.iter().flat_map(|route| &route.rules) {
        for each in rule.destination.services() {
            let of_service = priorities.entry(each.service.clone()).or_default();
            of_service.insert(rule.routing.priority);
        }
    }
    priorities
}

/// How much of a service's bound requests may fill, in percent: all but a fifth for each higher priority that the
/// service knows.
fn room(priorities: &HashMap<Name, BTreeSet<Priority>>, service: Option<&Name>, priority: Priority) -> u8 {
    let higher = service
        .and_then(|service| priorities.get(service))
        .map_or(0, |known| known.iter().filter(|each| **each > priority).count());
    match higher {
        0 => 100,
        1 => 80,
        _ => 60,
    }
}
