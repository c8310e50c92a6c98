//! A worker: one thread with its own sockets, connections, upstream pools and counters.

mod accepting;
mod policy;

use std::{
    cell::{Cell, RefCell},
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

use self::accepting::{Accepting, At};
pub(super) use self::policy::WorkerPolicy;
use super::{
    GatewayError,
    config::GatewayConfig,
    connection,
    counters::WorkerMetrics,
    deadlines::Deadlines,
    handshakes::Handshakes,
    identity::cache::TokenCache,
    limit::queue::WaitingRoom,
    listener::{Acceptor, ListenerContext},
    live::Live,
    metrics::{GatewayMetrics, Handshake},
    mirror::Mirrors,
    policies::{Latest, Policies},
    pressure::{Pressure, Shedding},
    proof,
    revocation::{self, Proofs, Revoked, Table},
    revoker::Revocation,
    signal::Observer,
    sources::{Budgets, Part, Shares},
    upstream::send::Site,
    verified::VerifiedSources,
};
use enforcer_model::Name;
use enforcer_model::flow::Flow;
use enforcer_supervision::guarded;
use enforcer_sys::memory;

/// How often counters are added to the shared ones, and idle connections are looked at.
const HOUSEKEEPING: Duration = Duration::from_millis(500);
/// After how many of these memory that is not used any more is given back.
const GIVING_BACK: u32 = 20;

/// What a worker thread is started with.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) listeners: Vec<Change>,
    pub(super) policies: Policies,
    pub(super) metrics: GatewayMetrics,
    pub(super) limits: Limits,
    pub(super) site: Site,
    pub(super) verified: Arc<VerifiedSources>,
    pub(super) tokens: TokenCache,
    /// How late the worker is, in seconds.
    pub(super) late: prometheus::Gauge,
    /// What says that the worker makes progress.
    pub(super) part: enforcer_supervision::Part,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    pub(super) revocations: mpsc::Receiver<Revocation>,
}

/// How much a worker takes in, and how late it may be.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    max_connections: usize,
    max_per_source: usize,
    /// Credentials of each source that are refused; more are not looked at. `None`: there is no bound.
    attempts: Option<Arc<Budgets>>,
    shedding: Shedding,
}

impl Limits {
    /// An equal share for each worker, rounded up.
    ///
    /// # Errors
    /// No limiter keeps the rate of refused credentials.
    pub(super) fn of(config: &GatewayConfig, workers: usize) -> Result<Self, GatewayError> {
        let attempts = config.per_source.attempts.map(|rate| {
            Budgets::new(rate, rate.amount())
                .map(Arc::new)
                .map_err(GatewayError::Budget)
        });
        Ok(Self {
            max_connections: config.max_connections.get().div_ceil(workers),
            max_per_source: config.per_source.connections.get().div_ceil(workers),
            attempts: attempts.transpose()?,
            shedding: config.shedding,
        })
    }
}

/// What a worker is told.
#[derive(Debug)]
pub(super) enum Command {
    /// Take in this much from now on.
    Limits(Limits),
    /// Some listeners are others from now on.
    Listeners(Vec<Change>),
    Drain(Drain),
}

/// A change of a listener.
#[derive(Debug)]
pub(super) enum Change {
    /// Accept from this socket, too.
    Open(StdListener, Arc<ListenerContext>),
    /// Serve later connections of the listener of this name with these settings.
    Adjust(Arc<ListenerContext>),
    /// Accept from the listener of this name no more.
    Close(Name),
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
    pub(super) deadlines: Rc<Deadlines>,
    latest: RefCell<Latest>,
    revoked: RefCell<revocation::Latest>,
    policy: RefCell<Rc<WorkerPolicy>>,
    pub(super) admission: Admission,
    site: Site,
    connections: Cell<usize>,
    requests: Cell<usize>,
    draining: Cell<bool>,
    drain_begins: Notify,
    emptied: Notify,
}

/// Which connections a worker takes in.
pub(super) struct Admission {
    limits: RefCell<Limits>,
    shares: Rc<Shares>,
    /// Sources that were verified lately.
    pub(super) verified: Arc<VerifiedSources>,
}

/// One of so many connections is kept for sources that were verified lately.
const RESERVED: usize = 8;

/// Runs a worker until it is told to drain, or until the gateway is gone.
pub(super) async fn run(setup: Setup, observer: Arc<dyn Observer>) {
    let Setup {
        listeners,
        policies,
        metrics,
        limits,
        site,
        verified,
        tokens,
        late,
        part,
        mut commands,
        revocations,
    } = setup;
    let part = Rc::new(part);
    let pressure = Pressure::new(limits.shedding);
    let admission = Admission {
        shares: Shares::new(limits.max_per_source, limits.max_connections),
        limits: RefCell::new(limits),
        verified,
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
    let mut accepting = Accepting::new(Rc::clone(&worker), Rc::clone(&part));
    accepting.apply(listeners);
    // None of these may end by a panic: the worker would go on without it.
    let house = keep_house(Rc::clone(&worker), late, Rc::clone(&part));
    tokio::task::spawn_local(guarded(part.guard(), house));
    let late = pressure.watch(Rc::clone(&worker.deadlines));
    tokio::task::spawn_local(guarded(part.guard(), late));
    let revoked = revoke(Rc::clone(&worker), revocations);
    tokio::task::spawn_local(guarded(part.guard(), revoked));
    let by_files = revoke_by_files(Rc::clone(&worker), policies.revocations().changes(), |worker| {
        worker.live.end_revoked(&worker.revocations())
    });
    tokio::task::spawn_local(guarded(part.guard(), by_files));
    let by_keys = revoke_by_files(Rc::clone(&worker), policies.changes(), |worker| {
        worker.live.end_without_key(&worker.policy().generation.keys)
    });
    tokio::task::spawn_local(guarded(part.guard(), by_keys));
    let proofs = proof::look_after(Rc::clone(&worker.live), worker.metrics.clone());
    tokio::task::spawn_local(guarded(part.guard(), proofs));
    while let Some(command) = commands.recv().await {
        match command {
            Command::Listeners(changes) => accepting.apply(changes),
            Command::Limits(limits) => worker.limit(limits),
            Command::Drain(drain) => {
                worker.drain(drain, accepting.into_tasks()).await;
                break;
            }
        }
    }
    part.end();
    worker.flush();
}

async fn accept(worker: Rc<Worker>, mut acceptor: Acceptor, at: Rc<At>) {
    let start = |(stream, peer): (TcpStream, SocketAddr)| {
        let (context, handshakes) = at.now();
        let place = match worker.admit(&context, peer) {
            Ok(part) => Place::new(Rc::clone(&worker), context, handshakes, part),
            Err(refused) => {
                worker.metrics.handshake(&context, refused);
                return reset(&stream);
            }
        };
        tokio::task::spawn_local(connection::serve(place, stream, peer));
    };
    loop {
        tokio::select! {
            biased;
            () = worker.drain_begins() => break,
            () = at.closes() => break,
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
/// Ends connections whenever files say something else.
async fn revoke_by_files(
    worker: Rc<Worker>,
    mut changes: watch::Receiver<()>,
    end: impl Fn(&Worker) -> Vec<Flow>,
) {
    // It fails when the gateway ends.
    while changes.changed().await.is_ok() {
        let ended = end(&worker).len();
        if ended > 0 {
            worker.metrics.connections_revoked.inc_by(ended as u64);
            tracing::info!(
                connections = ended,
                "ended connections that rest on revoked proofs"
            );
        }
    }
}

async fn keep_house(worker: Rc<Worker>, late: prometheus::Gauge, part: Rc<enforcer_supervision::Part>) {
    let mut ticks = tokio::time::interval(HOUSEKEEPING);
    for count in (1..=GIVING_BACK).cycle() {
        let now = ticks.tick().await;
        part.beat();
        worker.flush();
        late.set(worker.pressure.late().as_secs_f64());
        worker.policy().sweep(now);
        if count == GIVING_BACK {
            memory::give_back();
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
            deadlines: Rc::default(),
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
        let most = self.admission.limits.borrow().max_connections;
        let room = if self.admission.verified.is_recent(peer.ip()) {
            most
        } else {
            most - most / RESERVED
        };
        if self.connections.get() >= room {
            // The one that is told ends in this turn of the worker, and the new one is counted beside it until then.
            if !self.live.give_up_idle() {
                return Err(Handshake::Refused);
            }
            self.metrics.connections_given_up.inc();
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
            Some(budgets) if listener.tls.is_some() => {
                let known = self.admission.verified.is_recent(source);
                budgets
                    .admit(source, known)
                    .then_some(part)
                    .ok_or(Handshake::SourceBudget)
            }
            _ => Ok(part),
        }
    }

    /// A credential from `source` was refused.
    pub(super) fn attempted(&self, source: IpAddr) {
        if let Some(attempts) = &self.admission.limits.borrow().attempts {
            attempts.charge(source);
        }
    }

    /// Takes in as much as this from now on. Connections that there are stay.
    fn limit(&self, limits: Limits) {
        self.pressure.set(limits.shedding);
        self.admission
            .shares
            .set(limits.max_per_source, limits.max_connections);
        *self.admission.limits.borrow_mut() = limits;
    }

    /// Whether a credential from `source` that is not known to be good is looked at, after so many were refused.
    pub(super) fn may_attempt(&self, source: IpAddr) -> bool {
        let known = || self.admission.verified.is_recent(source);
        let limits = self.admission.limits.borrow();
        let may = limits
            .attempts
            .as_ref()
            .is_none_or(|attempts| attempts.would_admit(source, known()));
        if !may {
            self.metrics.attempts_refused.inc();
        }
        may
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
        self.live.each(|mark| mark.wake());
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
