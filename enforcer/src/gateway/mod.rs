//! The API gateway: it ends TLS, finds out who asks, and lets requests through to services.
//!
//! ```text
//! accept → TLS → identity → [ route → authenticate → authorize → limit → balance → upstream ]
//! ```
//!
//! Each worker thread has its own sockets, connections, upstream pools and counters; what they share
//! (policies, TLS configurations, health) they only read while they serve requests.

mod activity;
mod audited;
mod body;
mod changes;
mod clock;
mod conditions;
pub mod config;
mod connection;
mod control;
mod counters;
mod deadlines;
mod driving;
mod expiring;
mod forwarding;
mod framing;
pub(crate) mod fuzz;
mod greeting;
mod grpc;
mod handshakes;
mod headers;
mod hello;
mod hold;
mod hop;
mod host;
pub mod identity;
mod lengths;
mod levels;
pub mod limit;
mod listener;
mod live;
mod metrics;
mod mirror;
mod passthrough;
pub mod policies;
mod present;
pub mod pressure;
pub mod problem;
mod proof;
mod proxy_protocol;
mod refusal;
mod request;
mod reserved;
pub mod revocation;
pub mod router;
pub mod signal;
mod socket;
mod sources;
mod spoken;
mod target;
pub mod tls;
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

pub(crate) use hop::is_of_hop;
pub(crate) use host::value as host_value;
pub(crate) use listener::port_taken;
pub use live::Revoker;
pub(crate) use reserved::is_ours;
pub(crate) use sources::Budgets;
pub(crate) use target::is_normal as is_normal_path;
pub(crate) use upstream::tls::{check as check_upstream_tls, server_name};

use self::{
    config::{GatewayConfig, HandshakeBudget, Handshakes, ListenerConfig},
    identity::cache::{self, TokenCache},
    listener::ListenerContext,
    live::Revocation,
    metrics::GatewayMetrics,
    policies::Policies,
    signal::Observer,
    tls::{ListenerTls, Tickets, TlsError},
    upstream::send::Site,
    verified::VerifiedSources,
    worker::{Drain, Setup},
};
use crate::policy::model::{Name, Rate};

/// TLS handshakes that a worker has under way at a listener that says nothing else.
const HANDSHAKES: usize = 512;

/// A running gateway. Dropping it cuts what is under way; [`Self::drain`] does not.
#[derive(Debug)]
pub struct Gateway {
    workers: Vec<Worker>,
    listeners: Vec<(Arc<ListenerContext>, SocketAddr)>,
    metrics: GatewayMetrics,
    drain: Duration,
    control: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

#[derive(Debug)]
struct Worker {
    commands: oneshot::Sender<Drain>,
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
        let mut sockets: Vec<_> = (0..count).map(|_| Vec::new()).collect();
        let mut listeners = Vec::new();
        let share = Share {
            metrics: &metrics,
            tickets: Arc::default(),
            budgets: budgets(config.per_source.handshakes)?,
            workers: count,
        };
        for each in &config.listeners {
            let context = Arc::new(share.context(each)?);
            let failed = |source| GatewayError::Listen {
                listener: each.name.clone(),
                address: each.address,
                source,
            };
            let bound = listener::bind(each.address, count).map_err(failed)?;
            listeners.push((Arc::clone(&context), bound[0].local_addr().map_err(failed)?));
            for (socket, worker) in bound.into_iter().zip(&mut sockets) {
                worker.push((socket, Arc::clone(&context)));
            }
        }
        let mut gateway = Self {
            workers: Vec::new(),
            listeners,
            metrics,
            drain: config.drain,
            control: None,
        };
        gateway.control = Some(gateway.start_control(policies)?);
        let site = Site {
            workers: count,
            zone: config.zone.clone(),
        };
        let max_connections = config.max_connections.get().div_ceil(count);
        let max_per_source = config.per_source.connections.get().div_ceil(count);
        let verified = Arc::new(VerifiedSources::default());
        let attempts = config.per_source.attempts.map(attempts).transpose()?;
        for (index, listeners) in sockets.into_iter().enumerate() {
            let (sender, commands) = oneshot::channel();
            let (revoke, revocations) = mpsc::channel(live::WAITING);
            let (policies, metrics) = (policies.clone(), gateway.metrics.clone());
            let tokens = TokenCache::new(cache::DEFAULT_CAPACITY).map_err(|_| GatewayError::Random)?;
            let setup = Setup {
                listeners,
                policies,
                metrics,
                max_connections,
                site: site.clone(),
                max_per_source,
                verified: Arc::clone(&verified),
                attempts: attempts.clone(),
                tokens,
                shedding: config.shedding,
                late: gateway
                    .metrics
                    .worker_late
                    .with_label_values(&[&index.to_string()]),
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
        Ok(gateway)
    }

    fn start_control(
        &self,
        policies: &Policies,
    ) -> Result<(oneshot::Sender<()>, JoinHandle<()>), GatewayError> {
        let (running, gone) = oneshot::channel();
        let listeners = self
            .listeners
            .iter()
            .map(|(context, _)| Arc::clone(context))
            .collect();
        let (policies, metrics) = (policies.clone(), self.metrics.clone());
        let thread = thread("gateway-control", move || {
            control::run(policies, listeners, metrics, gone)
        })?;
        Ok((running, thread))
    }

    /// Where each listener listens, in the order of the configuration.
    #[must_use]
    pub fn addresses(&self) -> Vec<(Name, SocketAddr)> {
        self.listeners
            .iter()
            .map(|(context, address)| (context.name.clone(), *address))
            .collect()
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
        let reload = |(context, _): &(Arc<ListenerContext>, _)| {
            control::reload(context, &self.metrics).map_err(|source| GatewayError::Tls {
                listener: context.name.clone(),
                source: Box::new(source),
            })
        };
        // All are looked at before the first error is returned.
        let results: Vec<_> = self.listeners.iter().map(reload).collect();
        results.into_iter().collect()
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
                .send(Drain {
                    deadline,
                    cut: sender,
                })
                .unwrap_or_default();
            waits.push((cut, thread));
        }
        let mut total = 0;
        for (cut, thread) in waits {
            total += cut.await.unwrap_or(0);
            join(thread);
        }
        total
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        for Worker { commands, thread, .. } in self.workers.drain(..) {
            drop(commands);
            join(thread);
        }
        if let Some((running, thread)) = self.control.take() {
            drop(running);
            join(thread);
        }
    }
}

/// What listeners share.
struct Share<'a> {
    metrics: &'a GatewayMetrics,
    tickets: Arc<Tickets>,
    /// Of those that have none of their own.
    budgets: Option<Arc<Budgets>>,
    workers: usize,
}

impl Share<'_> {
    fn context(&self, config: &ListenerConfig) -> Result<ListenerContext, GatewayError> {
        let load = |tls| ListenerTls::load(tls, &self.tickets).map(Arc::new);
        let tls = config.tls.as_ref().map(load).transpose();
        let Handshakes {
            concurrent,
            per_source,
        } = config.handshakes;
        let context = ListenerContext {
            name: config.name.clone(),
            tls: tls.map_err(|source| GatewayError::Tls {
                listener: config.name.clone(),
                source: Box::new(source),
            })?,
            proxy_protocol: config.proxy_protocol.clone(),
            handshakes: concurrent.map_or(HANDSHAKES, |all| all.get().div_ceil(self.workers)),
            budgets: budgets(per_source)?.or_else(|| self.budgets.clone()),
            timeouts: config.timeouts,
            connections: self
                .metrics
                .connections
                .with_label_values(&[config.name.as_str()]),
        };
        expiring::show_listener(&context, self.metrics);
        Ok(context)
    }
}

fn budgets(budget: Option<HandshakeBudget>) -> Result<Option<Arc<Budgets>>, GatewayError> {
    let new = |HandshakeBudget { rate, burst }| Budgets::new(rate, burst).map(Arc::new);
    budget.map(new).transpose().map_err(GatewayError::Budget)
}

fn attempts(rate: Rate) -> Result<Arc<Budgets>, GatewayError> {
    Budgets::new(rate, rate.amount())
        .map(Arc::new)
        .map_err(GatewayError::Budget)
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

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("a thread of the gateway had panicked");
    }
}
