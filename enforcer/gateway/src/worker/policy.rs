//! What a worker has for a generation of policies: its own connections, counters, and clones of what matching needs.

use std::{cell::OnceCell, collections::HashMap, rc::Rc, sync::Arc};

use tokio::time::Instant;

use crate::{
    counters::{EndpointCells, RuleCells, ServiceCells},
    metrics::GatewayMetrics,
    mirror::MirrorCells,
    policies::Generation,
    upstream::{
        endpoint::SharedEndpoint,
        pool::LocalEndpoint,
        send::{Site, Upstream},
        service::LocalService,
    },
};
use enforcer_model::{Name, Pattern, Service, condition::Condition};
use enforcer_routing::router::RuleIndex;

/// A generation, with what this worker has for it.
#[derive(Debug)]
pub(crate) struct WorkerPolicy {
    pub(crate) generation: Arc<Generation>,
    /// Clones of the generation's, so that workers do not contend for what matching needs.
    pub(crate) patterns: Vec<Pattern>,
    upstreams: Vec<Upstream>,
    /// For each target.
    cells: Vec<OnceCell<Rc<RuleCells>>>,
    /// For rules whose requests are copied.
    pub(crate) mirrors: HashMap<RuleIndex, Rc<MirrorCells>>,
    /// Copies of the rules' conditions: what regular expressions write while they match is this worker's own.
    conditions: Vec<Vec<Option<Condition>>>,
    /// For requests that no rule decides.
    pub(crate) no_route: Rc<RuleCells>,
}

impl WorkerPolicy {
    /// `generation`, with the connections that `old` has to endpoints that stay.
    pub(super) fn new(
        generation: Arc<Generation>,
        old: Option<&Self>,
        metrics: &GatewayMetrics,
        site: &Site,
    ) -> Self {
        let services: HashMap<_, _> = old
            .into_iter()
            .flat_map(|old| &old.upstreams)
            .map(|known| (&known.service.name, &known.local))
            .collect();
        let known: HashMap<_, _> = old
            .into_iter()
            .flat_map(Self::endpoints)
            .map(|known| (Arc::as_ptr(&known.shared), known))
            .collect();
        let upstream = |position: usize, service: &Arc<Service>| {
            let name = service.name.as_str();
            let known_service = services.get(&service.name);
            let here = known_service.map_or_else(
                || LocalService::new(ServiceCells::new(metrics, name)),
                |known| Rc::clone(known),
            );
            let local = |shared: &Arc<SharedEndpoint>| {
                let known = known.get(&Arc::as_ptr(shared));
                known.map(|known| Rc::clone(known)).unwrap_or_else(|| {
                    let cells = EndpointCells::new(metrics, name, shared.authority.as_str());
                    Rc::new(LocalEndpoint::new(Arc::clone(shared), cells, Rc::clone(&here)))
                })
            };
            let endpoints = generation.endpoints[position].iter().map(local).collect();
            let table = generation.tables[position].clone();
            Upstream::new(
                Arc::clone(service),
                endpoints,
                Rc::clone(&here),
                table,
                site.clone(),
            )
        };
        let services = generation.set.services.iter().enumerate();
        let upstreams = services
            .map(|(position, service)| upstream(position, service))
            .collect();
        let routes = generation.set.routes.iter();
        let conditions =
            routes.map(|route| route.rules.iter().map(|rule| rule.access.when.clone()).collect());
        Self {
            patterns: generation.patterns.clone(),
            upstreams,
            mirrors: MirrorCells::of(&generation, metrics),
            conditions: conditions.collect(),
            cells: vec![OnceCell::new(); generation.targets()],
            no_route: RuleCells::new(metrics, "", ""),
            generation,
        }
    }

    /// Adds what has been counted to what is shared.
    pub(super) fn flush(&self) {
        self.endpoints().for_each(|endpoint| endpoint.report());
        for upstream in &self.upstreams {
            upstream.tell_limit();
            upstream.local.cells.flush();
        }
        self.mirrors.values().for_each(|cells| cells.flush());
    }

    /// Closes idle connections, and lets requests that wait for one look again.
    pub(super) fn sweep(&self, now: Instant) {
        self.endpoints().for_each(|endpoint| endpoint.sweep(now));
        for upstream in &self.upstreams {
            upstream.local.stir();
        }
    }

    fn endpoints(&self) -> impl Iterator<Item = &Rc<LocalEndpoint>> {
        self.upstreams.iter().flat_map(|upstream| &upstream.endpoints)
    }

    /// Where requests to the target go. `None` denies.
    pub(crate) fn upstream(&self, target: usize) -> Option<&Upstream> {
        self.service(self.generation.service_of(target)?)
    }

    /// The service at that position.
    pub(crate) fn service(&self, position: usize) -> Option<&Upstream> {
        self.upstreams.get(position)
    }

    /// The rule's condition.
    pub(crate) fn condition(&self, index: RuleIndex) -> Option<&Condition> {
        self.conditions[index.route][index.rule].as_ref()
    }

    /// The counters of the rule's target.
    pub(crate) fn cells(&self, index: RuleIndex, target: usize, metrics: &GatewayMetrics) -> &Rc<RuleCells> {
        self.cells[target].get_or_init(|| {
            let (route, _) = self.generation.rule(index);
            let service = self.generation.service_name(index, target);
            RuleCells::new(metrics, route.name.as_str(), service.map_or("", Name::as_str))
        })
    }

    /// The worker's clone of the pattern by which the rule changes paths.
    pub(crate) fn pattern(&self, index: RuleIndex) -> Option<&Pattern> {
        self.generation
            .pattern_of(index)
            .map(|position| &self.patterns[position])
    }
}
