//! The daemon: start, run, reload, drain.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::{
    controller::Controller,
    convert, events,
    joining::Joining,
    kept::Kept,
    links,
    metrics::Metrics,
    privileges,
    state::{KernelHalf, Shared},
};
use crate::{
    adapt::failures::Failures,
    admin::{self, AdminError, Bound},
    audit::{self, AuditError, record::Event},
    config::{Config, OnStop},
    gateway::{Gateway, GatewayError, config::GatewayConfig, policies::Policies, signal::Observer},
    kernel::{Events, Kernel, KernelError, memory, raise_descriptor_limit},
    policy::{self, PolicySet, Problems, WatchError},
};

/// Changes of policies that wait to be applied.
const WAITING_CHANGES: usize = 4;

/// File descriptors for all but clients and upstreams: maps, programs, sockets, files.
const OWN_DESCRIPTORS: u64 = 256;

/// Why the agent does not start or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The policies that it is to start with.
    #[error(transparent)]
    Policies(#[from] Problems),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("capabilities cannot be dropped: {0}")]
    Privileges(#[from] caps::errors::CapsError),
    #[error("gateway.authFailures.rate: {0}")]
    Failures(#[source] enforcer_common::limiter::ParamsError),
    #[error("no runtime for the agent's own tasks: {0}")]
    Runtime(#[source] io::Error),
}

/// Runs until SIGTERM or SIGINT, then drains, and leaves in force what is to stay.
///
/// # Errors
/// Why it does not start. Once it runs, problems are logged and counted, and what was good stays.
pub fn run(config: &Config) -> Result<(), RunError> {
    for warning in &config.warnings {
        tracing::warn!(%warning, "configuration");
    }
    if let Err(error) = privileges::forbid_dumps() {
        tracing::warn!(%error, "a crash may leave a file with keys and tokens: set LimitCORE=0 in the unit");
    }
    raise_descriptors(config);
    if let Err(error) = memory::small_pages() {
        tracing::info!(%error, "the agent may have huge pages, and more memory than it needs");
    }
    policy::secrets::confine(&config.secrets);
    let loaded = policy::load(&config.policies)?;
    // First of all that is taken: where another agent runs already, this one leaves it alone.
    let admin = admin::bind(config.admin.address)?;
    let kernel = config
        .kernel
        .enabled
        .then(|| Kernel::load(&convert::kernel(config), &convert::staying(config)))
        .transpose()?;
    // Nothing but this thread is there yet.
    privileges::drop_unneeded()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("agent")
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    let gateway_config = convert::gateway(config);
    let policies = gateway_config
        .as_ref()
        .map(|_| Policies::new(PolicySet::default(), runtime.handle().clone()));
    let shared = Arc::new(Shared::new(
        kernel.map(KernelHalf::from),
        policies,
        Metrics::new()?,
        config.kernel.management.clone(),
        Kept::new(config.state_dir.clone()),
    ));
    if let Some(policies) = &shared.policies {
        shared.kept.restore(policies.revocations());
    }
    let audit = config
        .audit
        .as_ref()
        .map(|audit| audit::start(audit, &shared.metrics.registry))
        .transpose()?;
    let audit = audit.map(|(audit, thread)| {
        shared.set_audit(audit);
        thread
    });
    shared.record(&Event::Started {
        version: env!("CARGO_PKG_VERSION"),
    });
    let digest = loaded.digest.clone();
    for warning in &loaded.warnings {
        tracing::warn!(%warning, "policy");
    }
    shared.apply(loaded)?;
    let gateway = gateway_config
        .map(|gateway| start_gateway(config, &gateway, &shared))
        .transpose()?;
    // Loading programs and policies takes several times what stays of it, and code that is not needed again.
    memory::give_back();
    memory::forget_code();
    let result = runtime.block_on(serve(config, &shared, admin, gateway, digest));
    leave(&shared, config.kernel.on_stop);
    // What still waits for something has nobody left to answer to.
    runtime.shutdown_timeout(Duration::from_secs(1));
    shared.record(&Event::Stopping);
    if let Some(audit) = audit {
        audit.stop();
    }
    result
}

/// Without descriptors no connection is accepted and no interface is found.
fn raise_descriptors(config: &Config) {
    let limit = match raise_descriptor_limit() {
        Ok(limit) => limit,
        Err(error) => {
            tracing::warn!(%error, "file descriptors");
            return;
        }
    };
    let needed = descriptors_needed(config.gateway.max_connections);
    if !config.gateway.listeners.is_empty() && limit < needed {
        tracing::warn!(
            limit,
            needed,
            "gateway.maxConnections needs more file descriptors than there may be: raise LimitNOFILE= of the unit, \
             or lower gateway.maxConnections"
        );
    }
}

/// A client's connection may need one to an upstream, and the agent some of its own.
fn descriptors_needed(connections: u32) -> u64 {
    2 * u64::from(connections) + OWN_DESCRIPTORS
}

fn start_gateway(
    config: &Config,
    gateway: &GatewayConfig,
    shared: &Arc<Shared>,
) -> Result<Gateway, RunError> {
    let failures = config
        .gateway
        .auth_failures
        .map(|limits| Failures::new(limits.rate).map(|failures| (failures, limits.deny_for)))
        .transpose()
        .map_err(RunError::Failures)?;
    let observer: Arc<dyn Observer> = Arc::new(Joining::new(Arc::clone(shared), failures));
    let Some(policies) = &shared.policies else {
        return Err(GatewayError::NoListener.into());
    };
    let started = Gateway::start(gateway, policies, &observer, &shared.metrics.registry)?;
    shared.set_revoker(started.revoker());
    for (name, address) in started.addresses() {
        tracing::info!(listener = %name, %address, workers = gateway.workers, "listening");
    }
    Ok(started)
}

async fn serve(
    config: &Config,
    shared: &Arc<Shared>,
    admin: Bound,
    gateway: Option<Gateway>,
    digest: String,
) -> Result<(), RunError> {
    let Signals {
        mut terminate,
        mut interrupt,
        mut hang_up,
    } = Signals::new().map_err(RunError::Runtime)?;
    let admin = admin::start(admin, &config.runtime_dir, Arc::clone(shared))?;
    let (outcomes, mut changes) = mpsc::channel(WAITING_CHANGES);
    let watch = policy::watch(config.policies.clone(), Some(digest), outcomes)?;
    let controller = tokio::spawn(control(
        Controller::new(Arc::clone(shared), config.adapt.latency, ports(config)),
        config.adapt.interval,
    ));
    let events = shared.kernel.as_ref().and_then(KernelHalf::take_events);
    let events = events.map(|events| tokio::spawn(take_in(events, Arc::clone(shared))));
    let links = shared
        .kernel
        .is_some()
        .then(|| tokio::spawn(links::follow(Arc::clone(shared))));
    if let Some(log) = shared.kernel.as_ref().and_then(KernelHalf::take_log) {
        tracing::info!("the kernel programs log each packet that has an event (ENFORCER_LOG)");
        tokio::spawn(async move {
            if let Err(error) = log.forward().await {
                tracing::error!(%error, "what the kernel programs log is not shown");
            }
        });
    }
    shared.set_ready(true);
    tracing::info!(admin = %config.admin.address, version = env!("CARGO_PKG_VERSION"), "ready");
    loop {
        tokio::select! {
            Some(outcome) = changes.recv() => {
                let shared = Arc::clone(shared);
                // Writing large access lists takes a while.
                let applying = tokio::task::spawn_blocking(move || {
                    shared.changed(outcome);
                    memory::give_back();
                });
                if let Err(error) = applying.await {
                    tracing::error!(%error, "applying policies failed");
                }
            }
            _ = hang_up.recv() => reload(&config.policies, shared, gateway.as_ref()),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    tracing::info!("stopping");
    shared.set_ready(false);
    for task in [events, links].into_iter().flatten() {
        task.abort();
    }
    drop(watch);
    if let Some(gateway) = gateway {
        let cut = gateway.drain(None).await;
        tracing::info!(requests_cut = cut, "drained");
    }
    // Until here limits are watched.
    controller.abort();
    admin.stop();
    Ok(())
}

/// The ports that the gateway listens on.
fn ports(config: &Config) -> Vec<u16> {
    config
        .gateway
        .listeners
        .iter()
        .map(|listener| listener.address.port())
        .collect()
}

async fn control(mut controller: Controller, period: Duration) {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        if let Err(error) = controller.tick() {
            tracing::error!(%error, "the controller's interval failed");
        }
    }
}

async fn take_in(events: Events, shared: Arc<Shared>) {
    if let Err(error) = events::take_in(events, shared).await {
        tracing::error!(%error, "events are not shown: the kernel's ring cannot be waited for");
    }
}

/// SIGHUP: everything is read again, though changes are noticed without it.
fn reload(paths: &[PathBuf], shared: &Arc<Shared>, gateway: Option<&Gateway>) {
    tracing::info!("reloading");
    let loaded = policy::load(paths);
    let same = matches!(&loaded, Ok(loaded) if loaded.digest == shared.standing().digest);
    if !same {
        shared.changed(loaded);
    }
    if let Some(Err(error)) = gateway.map(Gateway::reload_certificates) {
        tracing::error!(%error, "certificates not reloaded; the old ones stay");
    }
}

/// What is pinned goes on without this agent, if it may.
fn leave(shared: &Shared, on_stop: OnStop) {
    let Some(kernel) = &shared.kernel else { return };
    if on_stop == OnStop::Keep && kernel.generations().stays() {
        let ended = kernel.generations().store.end_answering();
        match ended.and_then(|()| kernel.heartbeat.beat()) {
            Ok(()) => tracing::info!(
                "the programs stay in force for the next agent; without one, limits lapse (`kernel.deadMan`); \
                 `enforcer detach` takes them away"
            ),
            Err(error) => tracing::error!(%error, "the programs stay in force, not all as they should"),
        }
    } else {
        match kernel.generations().detach() {
            Ok(()) => tracing::info!("detached from all interfaces"),
            Err(error) => tracing::error!(%error, "not detached everywhere"),
        }
    }
    kernel.syn.restore();
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }
}
