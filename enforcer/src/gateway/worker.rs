//! A worker: one thread with its own sockets, connections, upstream pools and counters.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::HashMap,
    net::{IpAddr, SocketAddr, TcpListener as StdListener},
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use socket2::SockRef;
use tokio::{
    net::TcpStream,
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinSet,
    time::Instant,
};

use super::{
    connection,
    counters::{EndpointCells, RuleCells, ServiceCells, WorkerMetrics},
    handshakes::Handshakes,
    identity::cache::TokenCache,
    limit::queue::WaitingRoom,
    listener::{Acceptor, ListenerContext},
    live::{Live, Revocation},
    metrics::{GatewayMetrics, Handshake},
    mirror::{MirrorCells, Mirrors},
    policies::{Generation, Latest, Policies},
    pressure::{Pressure, Shedding},
    proof,
    revocation::{self, Proofs, Revoked, Table},
    router::RuleIndex,
    signal::Observer,
    sources::{Part, Shares},
    upstream::{
        endpoint::SharedEndpoint,
        pool::LocalEndpoint,
        send::{Site, Upstream},
        service::LocalService,
    },
};
use crate::{
    kernel::memory,
    policy::{
        cel::Condition,
        model::{Name, Pattern, Service},
    },
};

/// How often counters are added to the shared ones, and idle connections are looked at.
const HOUSEKEEPING: Duration = Duration::from_millis(500);
/// After how many of these memory that is not used any more is given back.
const GIVING_BACK: u32 = 10;

/// What a worker thread is started with.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) listeners: Vec<(StdListener, Arc<ListenerContext>)>,
    pub(super) policies: Policies,
    pub(super) metrics: GatewayMetrics,
    pub(super) max_connections: usize,
    pub(super) site: Site,
    pub(super) max_per_source: usize,
    pub(super) tokens: TokenCache,
    pub(super) shedding: Shedding,
    /// How late the worker is, in seconds.
    pub(super) late: prometheus::Gauge,
    pub(super) commands: oneshot::Receiver<Drain>,
    pub(super) revocations: mpsc::Receiver<Revocation>,
}

/// Tells a worker to finish.
#[derive(Debug)]
pub(super) struct Drain {
    pub(super) deadline: Instant,
    /// Gets the number of requests that were cut at the deadline.
    pub(super) cut: oneshot::Sender<usize>,
}

/// What a worker's connections share.
pub(super) struct Worker {
    pub(super) observer: Arc<dyn Observer>,
    pub(super) metrics: GatewayMetrics,
    pub(super) counted: WorkerMetrics,
    pub(super) tokens: RefCell<TokenCache>,
    pub(super) waiting: WaitingRoom,
    pub(super) pressure: Rc<Pressure>,
    pub(super) live: Rc<Live>,
    pub(super) mirrors: Rc<Mirrors>,
    latest: RefCell<Latest>,
    revoked: RefCell<revocation::Latest>,
    policy: RefCell<Rc<WorkerPolicy>>,
    admission: Admission,
    site: Site,
    connections: Cell<usize>,
    requests: Cell<usize>,
    draining: Cell<bool>,
    drain_begins: Notify,
    emptied: Notify,
}

/// Which connections a worker takes in.
struct Admission {
    max_connections: usize,
    shares: Rc<Shares>,
}

/// A generation, with what this worker has for it.
#[derive(Debug)]
pub(super) struct WorkerPolicy {
    pub(super) generation: Arc<Generation>,
    /// Clones of the generation's, so that workers do not contend for what matching needs.
    pub(super) patterns: Vec<Pattern>,
    upstreams: Vec<Upstream>,
    /// For each target.
    cells: Vec<OnceCell<Rc<RuleCells>>>,
    /// For rules whose requests are copied.
    pub(super) mirrors: HashMap<RuleIndex, Rc<MirrorCells>>,
    /// Copies of the rules' conditions: what regular expressions write while they match is this worker's own.
    conditions: Vec<Vec<Option<Condition>>>,
    /// For requests that no rule decides.
    pub(super) no_route: Rc<RuleCells>,
}

/// Runs a worker until it is told to drain, or until the gateway is gone.
pub(super) async fn run(setup: Setup, observer: Arc<dyn Observer>) {
    let Setup {
        listeners,
        policies,
        metrics,
        max_connections,
        site,
        max_per_source,
        tokens,
        shedding,
        late,
        commands,
        revocations,
    } = setup;
    let pressure = Pressure::new(shedding);
    let admission = Admission {
        max_connections,
        shares: Shares::new(max_per_source),
    };
    let worker = Rc::new(Worker::new(
        &policies,
        metrics,
        observer,
        admission,
        site,
        tokens,
        Rc::clone(&pressure),
    ));
    let mut accepting = JoinSet::new();
    for (socket, context) in listeners {
        match Acceptor::new(socket) {
            Ok(acceptor) => {
                accepting.spawn_local(accept(Rc::clone(&worker), acceptor, context));
            }
            Err(error) => {
                tracing::error!(listener = %context.name, %error, "a worker cannot watch its socket");
            }
        }
    }
    tokio::task::spawn_local(keep_house(Rc::clone(&worker), late));
    tokio::task::spawn_local(pressure.watch());
    tokio::task::spawn_local(revoke(Rc::clone(&worker), revocations));
    tokio::task::spawn_local(revoke_by_files(
        Rc::clone(&worker),
        policies.revocations().changes(),
    ));
    tokio::task::spawn_local(proof::look_after(Rc::clone(&worker.live), worker.metrics.clone()));
    if let Ok(drain) = commands.await {
        worker.drain(drain, accepting).await;
    }
    worker.flush();
}

async fn accept(worker: Rc<Worker>, mut acceptor: Acceptor, context: Arc<ListenerContext>) {
    let handshakes = Rc::new(Handshakes::new(context.handshakes));
    let start = |(stream, peer): (TcpStream, SocketAddr)| {
        let place = match worker.admit(&context, peer) {
            Ok(part) => Place::new(
                Rc::clone(&worker),
                Arc::clone(&context),
                Rc::clone(&handshakes),
                part,
            ),
            Err(refused) => {
                worker.metrics.handshake(context.name.as_str(), refused);
                return reset(&stream);
            }
        };
        tokio::task::spawn_local(connection::serve(place, stream, peer));
    };
    loop {
        tokio::select! {
            biased;
            () = worker.drain_begins() => break,
            accepted = acceptor.accept() => start(accepted),
        }
    }
    // Those that the kernel has completed already would be reset by closing the socket.
    while let Some(accepted) = acceptor.accept_waiting() {
        start(accepted);
    }
}

/// Has a connection end without a farewell, which would cost a refused client nothing and the kernel a
/// minute's memory (`SO_LINGER` with no time, socket(7)).
pub(super) fn reset(stream: &TcpStream) {
    // What cannot be reset is closed all the same.
    SockRef::from(stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap_or_default();
}

/// Ends connections as they are revoked.
async fn revoke(worker: Rc<Worker>, mut revocations: mpsc::Receiver<Revocation>) {
    while let Some(revocation) = revocations.recv().await {
        let ended = worker.live.end(revocation, &worker.revocations());
        worker.metrics.connections_revoked.inc_by(ended as u64);
    }
}

/// Ends connections as files revoke what they rest on.
async fn revoke_by_files(worker: Rc<Worker>, mut changes: watch::Receiver<()>) {
    // It fails when the gateway ends.
    while changes.changed().await.is_ok() {
        let ended = worker.live.end_revoked(&worker.revocations()).len();
        if ended > 0 {
            worker.metrics.connections_revoked.inc_by(ended as u64);
            tracing::info!(
                connections = ended,
                "ended connections that rest on revoked proofs"
            );
        }
    }
}

async fn keep_house(worker: Rc<Worker>, late: prometheus::Gauge) {
    let mut ticks = tokio::time::interval(HOUSEKEEPING);
    for count in (1..=GIVING_BACK).cycle() {
        let now = ticks.tick().await;
        worker.flush();
        late.set(worker.pressure.late().as_secs_f64());
        worker.policy().sweep(now);
        if count == GIVING_BACK {
            memory::give_back(false);
        }
    }
}

impl Worker {
    fn new(
        policies: &Policies,
        metrics: GatewayMetrics,
        observer: Arc<dyn Observer>,
        admission: Admission,
        site: Site,
        tokens: TokenCache,
        pressure: Rc<Pressure>,
    ) -> Self {
        let policy = WorkerPolicy::new(policies.current(), None, &metrics, &site);
        Self {
            observer,
            counted: WorkerMetrics::default(),
            tokens: RefCell::new(tokens),
            waiting: WaitingRoom::default(),
            pressure,
            live: Rc::default(),
            mirrors: Rc::default(),
            latest: RefCell::new(policies.latest()),
            revoked: RefCell::new(policies.revocations().latest()),
            policy: RefCell::new(Rc::new(policy)),
            site,
            metrics,
            admission,
            connections: Cell::new(0),
            requests: Cell::new(0),
            draining: Cell::new(false),
            drain_begins: Notify::new(),
            emptied: Notify::new(),
        }
    }

    /// Whether a connection of `peer` may begin, before anything is spent on it. Its part of its source's share;
    /// `None`: whose that is is said by the header that is to come.
    fn admit(&self, listener: &ListenerContext, peer: SocketAddr) -> Result<Option<Part>, Handshake> {
        if self.connections.get() >= self.admission.max_connections {
            return Err(Handshake::Refused);
        }
        if listener.is_proxied(peer.ip()) {
            return Ok(None);
        }
        self.admit_source(listener, peer.ip()).map(Some)
    }

    /// Whether `source` may have another connection.
    pub(super) fn admit_source(&self, listener: &ListenerContext, source: IpAddr) -> Result<Part, Handshake> {
        let part = self.admission.shares.take(source);
        let part = part.ok_or(Handshake::SourceShare)?;
        match &listener.budgets {
            Some(budgets) if listener.tls.is_some() && !budgets.admit(source) => Err(Handshake::SourceBudget),
            _ => Ok(part),
        }
    }

    /// The policy for a request that begins now.
    pub(super) fn policy(&self) -> Rc<WorkerPolicy> {
        let mut latest = self.latest.borrow_mut();
        let latest = latest.load();
        let mut policy = self.policy.borrow_mut();
        if !Arc::ptr_eq(latest, &policy.generation) {
            let next = WorkerPolicy::new(Arc::clone(latest), Some(&policy), &self.metrics, &self.site);
            policy.flush();
            *policy = Rc::new(next);
        }
        Rc::clone(&policy)
    }

    /// The first of the proofs that is revoked now.
    pub(super) fn revoked(&self, proofs: &Proofs<'_>) -> Option<Revoked> {
        let mut latest = self.revoked.borrow_mut();
        let table = latest.load();
        if table.is_empty() {
            return None;
        }
        table.revoked(proofs, SystemTime::now())
    }

    fn revocations(&self) -> Arc<Table> {
        Arc::clone(self.revoked.borrow_mut().load())
    }

    /// Whether connections are to end after what is under way.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Waits until [`Self::is_draining`].
    pub(super) async fn drain_begins(&self) {
        if !self.draining.get() {
            self.drain_begins.notified().await;
        }
    }

    /// Counts a request that begins; [`Self::request_ended`] must follow.
    pub(super) fn request_begins(&self) {
        self.requests.set(self.requests.get() + 1);
    }

    pub(super) fn request_ended(&self) {
        self.requests.set(self.requests.get() - 1);
    }

    async fn drain(&self, drain: Drain, mut accepting: JoinSet<()>) {
        self.draining.set(true);
        self.drain_begins.notify_waiters();
        let emptied = async {
            // First they take in what waits for them.
            while accepting.join_next().await.is_some() {}
            while self.connections.get() > 0 {
                self.emptied.notified().await;
            }
        };
        let in_time = tokio::time::timeout_at(drain.deadline, emptied).await.is_ok();
        let cut = if in_time { 0 } else { self.requests.get() };
        // The gateway may have stopped waiting; then nobody wants the number.
        drain.cut.send(cut).unwrap_or_default();
    }

    fn flush(&self) {
        self.counted.flush();
        self.policy().flush();
    }
}

impl WorkerPolicy {
    /// `generation`, with the connections that `old` has to endpoints that stay.
    fn new(generation: Arc<Generation>, old: Option<&Self>, metrics: &GatewayMetrics, site: &Site) -> Self {
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
    fn flush(&self) {
        self.endpoints().for_each(|endpoint| endpoint.report());
        for upstream in &self.upstreams {
            upstream.tell_limit();
            upstream.local.cells.flush();
        }
        self.mirrors.values().for_each(|cells| cells.flush());
    }

    /// Closes idle connections, and lets requests that wait for one look again.
    fn sweep(&self, now: Instant) {
        self.endpoints().for_each(|endpoint| endpoint.sweep(now));
        for upstream in &self.upstreams {
            upstream.local.stir();
        }
    }

    fn endpoints(&self) -> impl Iterator<Item = &Rc<LocalEndpoint>> {
        self.upstreams.iter().flat_map(|upstream| &upstream.endpoints)
    }

    /// Where requests to the target go. `None` denies.
    pub(super) fn upstream(&self, target: usize) -> Option<&Upstream> {
        self.service(self.generation.service_of(target)?)
    }

    /// The service at that position.
    pub(super) fn service(&self, position: usize) -> Option<&Upstream> {
        self.upstreams.get(position)
    }

    /// The rule's condition.
    pub(super) fn condition(&self, index: RuleIndex) -> Option<&Condition> {
        self.conditions[index.route][index.rule].as_ref()
    }

    /// The counters of the rule's target.
    pub(super) fn cells(&self, index: RuleIndex, target: usize, metrics: &GatewayMetrics) -> &Rc<RuleCells> {
        self.cells[target].get_or_init(|| {
            let (route, _) = self.generation.rule(index);
            let service = self.generation.service_name(index, target);
            RuleCells::new(metrics, route.name.as_str(), service.map_or("", Name::as_str))
        })
    }

    /// The worker's clone of the pattern by which the rule changes paths.
    pub(super) fn pattern(&self, index: RuleIndex) -> Option<&Pattern> {
        self.generation
            .pattern_of(index)
            .map(|position| &self.patterns[position])
    }
}

/// A connection's place in its worker's and listener's counts.
pub(super) struct Place {
    pub(super) worker: Rc<Worker>,
    pub(super) listener: Arc<ListenerContext>,
    /// The worker's, at the listener.
    pub(super) handshakes: Rc<Handshakes>,
    /// Of its source's share.
    pub(super) part: Option<Part>,
}

impl Place {
    fn new(
        worker: Rc<Worker>,
        listener: Arc<ListenerContext>,
        handshakes: Rc<Handshakes>,
        part: Option<Part>,
    ) -> Self {
        worker.connections.set(worker.connections.get() + 1);
        listener.connections.inc();
        Self {
            worker,
            listener,
            handshakes,
            part,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.listener.connections.dec();
        let left = self.worker.connections.get() - 1;
        self.worker.connections.set(left);
        if left == 0 {
            self.worker.emptied.notify_one();
        }
    }
}
