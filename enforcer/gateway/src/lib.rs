//! The API gateway: it ends TLS, finds out who asks, and lets requests through to services.
//!
//! ```text
//! accept → TLS → identity → [ route → authenticate → authorize → limit → balance → upstream ]
//! ```
//!
//! Each worker thread has its own sockets, connections, upstream pools and counters; what they share
//! (policies, TLS configurations, health) they only read while they serve requests.
#![forbid(unsafe_code)]

mod activity;
mod audited;
mod body;
mod changes;
mod clock;
pub mod config;
mod connection;
mod control;
mod counters;
mod deadlines;
mod driving;
mod expiring;
mod files;
mod forwarding;
mod framing;
#[doc(hidden)]
pub mod fuzz;
mod greeting;
mod grpc;
mod handshakes;
mod headers;
mod hello;
mod hold;
pub mod identity;
mod lengths;
mod levels;
pub mod limit;
mod listener;
mod listeners;
mod live;
mod metrics;
mod mirror;
mod passthrough;
pub mod policies;
pub mod pressure;
pub mod problem;
mod proof;
mod proxy_protocol;
mod refusal;
mod request;
pub mod revocation;
mod revoker;
pub mod signal;
mod socket;
mod sources;
mod spoken;
mod tunnel;
mod upgrade;
mod upstream;
mod verified;
mod wire;
mod worker;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{Arc, mpsc::sync_channel},
    thread::{Builder as Thread, JoinHandle},
    time::Duration,
};

use enforcer_common::limiter::ParamsError;
use tokio::{
    runtime::{Builder as Runtime, LocalOptions},
    sync::{mpsc, oneshot},
    time::Instant,
};

pub use listener::port_taken;
pub use listeners::{ListenerChanges, Listeners};
pub use revoker::{Ended, Revoker};

use self::{
    config::GatewayConfig,
    files::Files,
    identity::cache::{self, TokenCache},
    metrics::GatewayMetrics,
    policies::Policies,
    revoker::Revocation,
    signal::Observer,
    upstream::send::Site,
    verified::VerifiedSources,
    worker::{Command, Drain, Setup},
};
use enforcer_model::Name;
use enforcer_supervision::Part;
use enforcer_tls::TlsError;

/// TLS handshakes that a worker has under way at a listener that says nothing else.
const HANDSHAKES: usize = 512;

/// How long the end waits for threads that should have ended, and how often it looks.
const LAST_WAIT: Duration = Duration::from_millis(500);
const JOIN_POLL: Duration = Duration::from_micros(200);

/// A running gateway. Dropping it cuts what is under way; [`Self::drain`] does not.
#[derive(Debug)]
pub struct Gateway {
    workers: Vec<Worker>,
    listeners: Arc<Listeners>,
    metrics: GatewayMetrics,
    drain: Duration,
    control: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    files: Option<Files>,
}

#[derive(Debug)]
struct Worker {
    commands: mpsc::UnboundedSender<Command>,
    revocations: mpsc::Sender<Revocation>,
    thread: JoinHandle<()>,
}

/// Why the gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    #[error("the gateway has no listener: configure at least one")]
    NoListener,
    #[error(
        "listener {listener}: cannot listen on {address}: {source}{}",
        port_taken(source)
    )]
    Listen {
        listener: Name,
        address: SocketAddr,
        source: io::Error,
    },
    #[error("listener {listener}: {source}")]
    Tls { listener: Name, source: Box<TlsError> },
    #[error("cannot start a thread of the gateway: {0}")]
    Thread(#[source] io::Error),
    #[error("the system gives no randomness, which caches of tokens need")]
    Random,
    #[error("no limiter keeps the budget of handshakes: {0:?}")]
    Budget(ParamsError),
    #[error("the gateway's metrics cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl Gateway {
    /// Listens and serves. Does not need a runtime. When this returns, connections are accepted.
    ///
    /// # Errors
    /// Which listener cannot be served, and why.
    pub fn start(
        config: &GatewayConfig,
        policies: &Policies,
        observer: &Arc<dyn Observer>,
        registry: &prometheus::Registry,
    ) -> Result<Self, GatewayError> {
        if config.listeners.is_empty() {
            return Err(GatewayError::NoListener);
        }
        let metrics = GatewayMetrics::new(registry)?;
        let count = config.workers.get();
        let listeners = Arc::new(Listeners::new(metrics.clone(), Arc::default(), count));
        let sockets = listeners.start(&config.listeners, config.per_source.handshakes)?;
        let mut gateway = Self {
            workers: Vec::new(),
            listeners,
            metrics,
            drain: config.drain,
            control: None,
            files: None,
        };
        gateway.control = Some(gateway.start_control(policies, observer.part("gateway-control"))?);
        let (watched, reader) = (Arc::clone(&gateway.listeners), observer.reader("certificates"));
        let files = files::start(policies.clone(), watched, gateway.metrics.clone(), reader);
        gateway.files = Some(files.map_err(GatewayError::Thread)?);
        let site = Site {
            workers: count,
            zone: config.zone.clone(),
        };
        let limits = worker::Limits::of(config, count)?;
        let verified = Arc::new(VerifiedSources::default());
        for (index, listeners) in sockets.into_iter().enumerate() {
            let (sender, commands) = mpsc::unbounded_channel();
            let (revoke, revocations) = mpsc::channel(revoker::WAITING);
            let (policies, metrics) = (policies.clone(), gateway.metrics.clone());
            let tokens = TokenCache::new(cache::DEFAULT_CAPACITY).map_err(|_| GatewayError::Random)?;
            let setup = Setup {
                listeners,
                policies,
                metrics,
                limits: limits.clone(),
                site: site.clone(),
                verified: Arc::clone(&verified),
                tokens,
                late: gateway
                    .metrics
                    .worker_late
                    .with_label_values(&[&index.to_string()]),
                part: observer.part(&format!("gateway-{index}")),
                commands,
                revocations,
            };
            let observer = Arc::clone(observer);
            let thread = thread(&format!("gateway-{index}"), move || worker::run(setup, observer))?;
            gateway.workers.push(Worker {
                commands: sender,
                revocations: revoke,
                thread,
            });
        }
        let commands = gateway.workers.iter().map(|worker| worker.commands.clone());
        gateway.listeners.tell(commands.collect());
        Ok(gateway)
    }

    fn start_control(
        &self,
        policies: &Policies,
        part: Part,
    ) -> Result<(oneshot::Sender<()>, JoinHandle<()>), GatewayError> {
        let (running, gone) = oneshot::channel();
        let (policies, metrics) = (policies.clone(), self.metrics.clone());
        let thread = thread("gateway-control", move || {
            control::run(policies, metrics, part, gone)
        })?;
        Ok((running, thread))
    }

    /// Where each listener listens, in the order of the configuration.
    #[must_use]
    pub fn addresses(&self) -> Vec<(Name, SocketAddr)> {
        self.listeners.addresses()
    }

    /// What changes its listeners while it runs.
    #[must_use]
    pub fn listeners(&self) -> Arc<Listeners> {
        Arc::clone(&self.listeners)
    }

    /// What ends connections of this gateway.
    #[must_use]
    pub fn revoker(&self) -> Revoker {
        let workers = self.workers.iter().map(|worker| worker.revocations.clone());
        Revoker::new(workers.collect())
    }

    /// Looks at all certificate files now instead of within seconds.
    ///
    /// # Errors
    /// The listener whose files are wrong, the first if there are several. The others are taken over.
    pub fn reload_certificates(&self) -> Result<(), GatewayError> {
        self.listeners.reload_files()
    }

    /// Stops accepting, lets requests under way finish for `within` (as configured, if `None`), and
    /// ends. Returns how many requests were cut.
    pub async fn drain(mut self, within: Option<Duration>) -> usize {
        let deadline = Instant::now() + within.unwrap_or(self.drain);
        let mut waits = Vec::new();
        for Worker { commands, thread, .. } in self.workers.drain(..) {
            let (sender, cut) = oneshot::channel();
            // A worker that has died takes no command and answers nothing.
            commands
                .send(Command::Drain(Drain {
                    deadline,
                    cut: sender,
                }))
                .unwrap_or_default();
            waits.push((cut, thread));
        }
        let last = deadline + LAST_WAIT;
        let mut total = 0;
        for (cut, thread) in waits {
            // A worker that hangs answers nothing: it is left to the process's end.
            let cut = tokio::time::timeout_at(last, cut).await;
            total += cut.ok().and_then(Result::ok).unwrap_or(0);
            join(thread, last.into_std());
        }
        total
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Workers end when nobody can tell them anything any more.
        self.listeners.tell(Vec::new());
        let mut threads = Vec::new();
        for Worker { commands, thread, .. } in self.workers.drain(..) {
            drop(commands);
            threads.push(thread);
        }
        if let Some((running, thread)) = self.control.take() {
            drop(running);
            threads.push(thread);
        }
        if let Some(Files { running, thread }) = self.files.take() {
            drop(running);
            threads.push(thread);
        }
        let last = std::time::Instant::now() + LAST_WAIT;
        for thread in threads {
            join(thread, last);
        }
    }
}

/// A thread with a runtime of its own, on which `work` may spawn what stays on the thread.
fn thread<F, W>(name: &str, work: W) -> Result<JoinHandle<()>, GatewayError>
where
    W: FnOnce() -> F + Send + 'static,
    F: Future<Output = ()>,
{
    // Such a runtime cannot leave the thread that has made it.
    let (made, is_made) = sync_channel(1);
    let body = move || {
        let mut runtime = Runtime::new_current_thread();
        // Whether it could be made is waited for below.
        match runtime.enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => {
                made.send(Ok(())).unwrap_or_default();
                runtime.block_on(work());
            }
            Err(error) => made.send(Err(error)).unwrap_or_default(),
        }
    };
    let thread = Thread::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(GatewayError::Thread)?;
    let made = is_made.recv().map_err(io::Error::other);
    made.flatten().map(|()| thread).map_err(GatewayError::Thread)
}

/// Waits for a thread that was told to end, until `last` at most.
fn join(thread: JoinHandle<()>, last: std::time::Instant) {
    while !thread.is_finished() && std::time::Instant::now() < last {
        std::thread::sleep(JOIN_POLL);
    }
    if !thread.is_finished() {
        let name = thread.thread().name().unwrap_or_default();
        tracing::error!(
            thread = name,
            "a thread of the gateway hangs, and is not waited for"
        );
    } else if thread.join().is_err() {
        tracing::error!("a thread of the gateway had panicked");
    }
}
