//! The daemon: start, run, reload, drain.

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{runtime::Runtime, sync::mpsc, task::JoinHandle, time::interval};

use super::{
    applying,
    chores::Chores,
    controller::Controller,
    convert,
    denying::{Denier, DenierError, Failing},
    descriptors::Descriptors,
    events,
    heartbeat::{self, LastInterval},
    joining::Joining,
    kept::Kept,
    links,
    metrics::Metrics,
    privileges,
    reload::{Drain, Reload},
    state::{KernelHalf, Shared},
    stop::{self, Cause, HangUps},
};
use crate::{
    admin::{self, AdminError, Bound},
    agent_lock::{AgentLock, AgentLockError},
    config::{Config, OnStop},
};
use enforcer_dataplane::{Events, Kernel, KernelError};
use enforcer_gateway::{Gateway, GatewayError, config::GatewayConfig, policies::Policies, signal::Observer};
use enforcer_model::PolicySet;
use enforcer_policy::{Problems, WatchError};
use enforcer_supervision::{
    Part,
    notify::{Message, Notifier},
    supervisor,
};
use enforcer_sys::memory;
use enforcer_telemetry::{
    audit::{self, AuditError, record::Event},
    logging::{self, Verbosity},
};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Threads of a runtime, and those of the admin address that may block.
const RUNTIME_THREADS: usize = 2;
const ADMIN_BLOCKING: usize = 64;

/// How often the admin address says that it is there.
const ADMIN_BEAT: Duration = Duration::from_millis(500);

/// How long the end waits for what is written by threads of their own: less than [`stop::GRACE`], with what comes before.
const LAST_WORDS: Duration = Duration::from_millis(1_200);
/// And before that for what is being applied, and the controller's interval.
const LAST_WORK: Duration = Duration::from_millis(200);

/// Changes of policies that wait to be applied.
const WAITING_CHANGES: usize = 4;

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
    #[error(transparent)]
    StateDir(#[from] AgentLockError),
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("capabilities cannot be dropped: {0}")]
    Privileges(#[from] caps::errors::CapsError),
    #[error(transparent)]
    Denier(#[from] DenierError),
    #[error(
        "there may be {there} file descriptors, and a gateway takes {needed} at least: raise LimitNOFILE= of the unit (`ulimit -n`)"
    )]
    Descriptors { there: u64, needed: u64 },
    #[error("no runtime or thread for the agent's own tasks: {0}")]
    Runtime(#[source] io::Error),
    /// It has run, and ends to be started again.
    #[error("the agent has ended because a part of it failed: {0}")]
    Failed(Arc<String>),
}

/// Runs until SIGTERM or SIGINT, then drains, and leaves in force what is to stay. SIGHUP has `file` read again.
///
/// # Errors
/// Why it does not start. Once it runs, problems are logged and counted, and what was good stays.
pub fn run(config: &Config, file: PathBuf, verbosity: Verbosity) -> Result<(), RunError> {
    for warning in &config.warnings {
        tracing::warn!(%warning, "configuration");
    }
    if let Err(error) = privileges::forbid_dumps() {
        tracing::warn!(%error, "a crash may leave a file with keys and tokens: set LimitCORE=0 in the unit");
    }
    let hang_ups = HangUps::take().map_err(RunError::Runtime)?;
    let descriptors = Descriptors::raise();
    if let Err(error) = memory::small_pages() {
        tracing::info!(%error, "the agent may have huge pages, and more memory than it needs");
    }
    enforcer_policy::secrets::confine(&config.secrets);
    let loaded = enforcer_policy::load(&config.policies)?;
    // First of all that is taken: where another agent runs already, this one leaves it alone.
    let admin = admin::bind(admin::Addresses {
        admin: config.admin.address,
        metrics: config.metrics.map(|metrics| metrics.address),
        runtime_dir: &config.runtime_dir,
    })?;
    take_state_dir(config)?;
    let kernel = config
        .kernel
        .enabled
        .then(|| Kernel::load(&convert::kernel(config), &convert::staying(config)))
        .transpose()?;
    // Nothing but this thread is there yet, and the log's.
    privileges::drop_unneeded()?;
    let runtimes = Runtimes::new().map_err(RunError::Runtime)?;
    let mut gateway_config = convert::gateway(config);
    if let Some(gateway) = &mut gateway_config {
        if let Some(needed) = descriptors.are_too_few_for(gateway) {
            let there = descriptors.count();
            return Err(RunError::Descriptors { there, needed });
        }
        descriptors.fit(gateway);
    }
    let policies = gateway_config
        .as_ref()
        .map(|_| Policies::new(PolicySet::default(), runtimes.agent.handle().clone()));
    let shared = Arc::new(Shared::new(
        kernel.map(KernelHalf::from),
        policies,
        Metrics::new()?,
        config.kernel.management.clone(),
        Kept::new(&config.state_dir),
    ));
    shared.parts.watch_panics();
    logging::register(&shared.metrics.registry)?;
    if let Some(policies) = &shared.policies {
        shared.kept.revocations.restore(policies.revocations());
    }
    if !shared.restore_denials() {
        // Those that the maps hold, for the day when they do not. What is wrong is logged, and shown by a metric.
        let keeping = Arc::clone(&shared);
        let keep = async move { keeping.keep_denials().await.unwrap_or_default() };
        runtimes.agent.spawn(keep);
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
    shared.record(&Event::Started { version: VERSION });
    if let Some(problems) = Problems::of(&crate::config::served::unknown_names(&loaded.set, config)) {
        return Err(problems.into());
    }
    shared.is_configured_as(config);
    let digest = loaded.digest.clone();
    for warning in &loaded.warnings {
        tracing::warn!(%warning, "policy");
    }
    shared.apply(loaded)?;
    let begun = begin_gateway(config, gateway_config.as_ref(), &shared);
    let (gateway, failing) = begun.inspect_err(|_| give_up(&shared))?;
    // Loading programs and policies takes several times what stays of it, and code that is not needed again.
    memory::give_back();
    memory::forget_code();
    let reading = Reading {
        hang_ups,
        descriptors,
        file,
        verbosity,
        failing,
        digest,
    };
    let result = serve(config, &shared, &runtimes, admin, gateway, reading);
    shared.parts.stop();
    // Whoever is started next goes on where an agent has failed.
    let failed = matches!(result, Err(RunError::Failed(_)));
    leave(
        &shared,
        if failed {
            OnStop::Keep
        } else {
            config.kernel.on_stop
        },
    );
    shared.record(&Event::Stopping { version: VERSION });
    let deadline = Instant::now() + LAST_WORDS;
    // What still waits for something has nobody left to answer to.
    runtimes.shutdown(LAST_WORK);
    if !shared.kept.stop(deadline) {
        tracing::error!(
            "the last change of what operators have denied or revoked is not written: the disk does not answer"
        );
    }
    if let Some(audit) = audit {
        audit.stop(deadline);
    }
    result
}

/// Takes the folder of what operators have ordered, which two agents would write over each other.
fn take_state_dir(config: &Config) -> Result<(), RunError> {
    let (state, runtime) = (&config.state_dir, &config.runtime_dir);
    let is_runtime_dir = || Some(state.canonicalize().ok()? == runtime.canonicalize().ok()?);
    if is_runtime_dir() == Some(true) {
        return Ok(());
    }
    match AgentLock::take(state, "stateDir") {
        Ok(lock) => lock.keep(),
        Err(error @ AgentLockError::Taken { .. }) => return Err(error.into()),
        // Without it the agent has done its work before, and says so when there is something to write.
        Err(error) => tracing::warn!(%error, "whether another agent uses the same `stateDir` is not known"),
    }
    Ok(())
}

/// The agent's own tasks, and those of the admin address, of which none keeps the others from being done.
struct Runtimes {
    agent: Runtime,
    admin: Runtime,
}

impl Runtimes {
    fn new() -> io::Result<Self> {
        let runtime = |name: &str| {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            runtime
                .worker_threads(RUNTIME_THREADS)
                .thread_name(name)
                .enable_all();
            runtime
        };
        Ok(Self {
            agent: runtime("agent").build()?,
            admin: runtime("admin").max_blocking_threads(ADMIN_BLOCKING).build()?,
        })
    }

    fn shutdown(self, within: Duration) {
        self.admin.shutdown_background();
        self.agent.shutdown_timeout(within);
    }
}

/// The gateway, if there is one, and who denies those whose authentication keeps failing.
fn begin_gateway(
    config: &Config,
    gateway: Option<&GatewayConfig>,
    shared: &Arc<Shared>,
) -> Result<(Option<Gateway>, Arc<Failing>), RunError> {
    let failures = config.gateway.auth_failures.filter(|_| gateway.is_some());
    let denier = failures.map(|limits| Denier::start(shared, limits)).transpose()?;
    let failing = Arc::new(Failing::new(denier));
    let gateway = gateway
        .map(|gateway| start_gateway(gateway, shared, &failing))
        .transpose()?;
    Ok((gateway, failing))
}

/// Takes back what a start that has failed has attached, unless it has taken it over from an agent before.
fn give_up(shared: &Shared) {
    let Some(kernel) = &shared.kernel else { return };
    if kernel.began.fresh.is_none() {
        tracing::warn!("the programs of the agent before stay in force; `enforcer detach` takes them away");
        return;
    }
    let detached = kernel.generations().detach();
    match detached {
        Ok(()) => tracing::info!("detached from all interfaces: this start has failed"),
        Err(error) => tracing::error!(%error, "not detached everywhere; `enforcer detach` does it"),
    }
}

fn start_gateway(
    gateway: &GatewayConfig,
    shared: &Arc<Shared>,
    failing: &Arc<Failing>,
) -> Result<Gateway, RunError> {
    let observer: Arc<dyn Observer> = Arc::new(Joining::new(Arc::clone(shared), Arc::clone(failing)));
    let Some(policies) = &shared.policies else {
        return Err(GatewayError::NoListener.into());
    };
    let started = Gateway::start(gateway, policies, &observer, &shared.metrics.registry)?;
    shared.set_revoker(started.revoker());
    shared.set_listeners(started.listeners());
    for (name, address) in started.addresses() {
        tracing::info!(listener = %name, %address, workers = gateway.workers, "listening");
    }
    Ok(started)
}

/// What is read again while the agent runs, and whom it concerns.
struct Reading {
    hang_ups: HangUps,
    descriptors: Descriptors,
    /// The configuration's.
    file: PathBuf,
    verbosity: Verbosity,
    failing: Arc<Failing>,
    /// Of the policies that were read.
    digest: String,
}

/// Serves until the agent is to end, and then drains.
fn serve(
    config: &Config,
    shared: &Arc<Shared>,
    runtimes: &Runtimes,
    admin: Bound,
    gateway: Option<Gateway>,
    reading: Reading,
) -> Result<(), RunError> {
    let parts = &shared.parts;
    let admin = {
        let _there = runtimes.admin.enter();
        admin::start(admin, Arc::clone(shared))?
    };
    runtimes.admin.spawn(say_alive(parts.part("admin")));
    let (outcomes, changes) = mpsc::channel(WAITING_CHANGES);
    let watch = Arc::new(enforcer_policy::watch(
        config.policies.clone(),
        Some(reading.digest),
        outcomes,
    )?);
    parts.watch_reader(watch.disk());
    let applying = applying::start(Arc::clone(shared), changes, parts.part("policies"));
    let applying = applying.map_err(RunError::Runtime)?;
    let last = LastInterval::new();
    let chores = Chores::new(&shared.metrics.registry)?;
    let controller = Controller::new(Arc::clone(shared), config.adapt.latency, chores)
        .start(config.adapt.interval, last.clone(), parts.part("controller"))
        .map_err(RunError::Runtime)?;
    start_heartbeat(shared, last)?;
    let tasks = follow_kernel(shared, &runtimes.agent);
    let notifier = Arc::new(Notifier::from_environment());
    supervisor::start(
        parts.clone(),
        Arc::clone(&notifier),
        parts.metrics(&shared.metrics.registry)?,
    )
    .map_err(RunError::Runtime)?;
    let drain_time = Arc::new(Drain::new(config.gateway.drain));
    let reload = Reload {
        shared: Arc::clone(shared),
        watch: Arc::clone(&watch),
        listeners: gateway.as_ref().map(Gateway::listeners),
        failing: reading.failing,
        drain: Arc::clone(&drain_time),
        descriptors: reading.descriptors,
        verbosity: reading.verbosity,
        file: reading.file,
        config: config.clone(),
    };
    let reload = reload.start().map_err(RunError::Runtime)?;
    // Full: one waits already, which reads everything too.
    let hang_up = move || {
        let _ = reload.try_send(());
    };
    let until = Arc::clone(&drain_time);
    let causes = stop::listen(reading.hang_ups, move || until.get(), parts.clone(), hang_up)
        .map_err(RunError::Runtime)?;
    shared.set_ready(true);
    notifier.tell(Message::Ready);
    tracing::info!(admin = %config.admin.address, version = VERSION, "ready");
    // The thread that tells it ends with the process.
    let cause = causes.recv().unwrap_or(Cause::Asked);
    tracing::info!(%cause, "stopping");
    notifier.tell(Message::Stopping);
    shared.set_ready(false);
    for task in tasks {
        task.abort();
    }
    drain(gateway, cause.drain(drain_time.get()))?;
    // Until here limits are watched, and policies change.
    let deadline = Instant::now() + LAST_WORK;
    let ended = [applying.stop(deadline), controller.stop(deadline)];
    if ended.contains(&false) {
        tracing::warn!("policies are still being applied, or the controller hangs");
    }
    admin.stop();
    match cause {
        Cause::Asked => Ok(()),
        Cause::Failed(why) => Err(RunError::Failed(why)),
    }
}

/// Says that the admin address's runtime is there.
async fn say_alive(part: Part) {
    let mut ticks = interval(ADMIN_BEAT);
    loop {
        ticks.tick().await;
        part.beat();
    }
}

/// Keeps limits in force, where they would lapse.
fn start_heartbeat(shared: &Shared, last: LastInterval) -> Result<(), RunError> {
    let Some(kernel) = &shared.kernel else {
        return Ok(());
    };
    let Some(lapse) = kernel.heartbeat.lapse() else {
        return Ok(());
    };
    heartbeat::start(
        kernel.heartbeat.clone(),
        lapse,
        last,
        shared.parts.part("heartbeat"),
    )
    .map_err(RunError::Runtime)
}

/// Takes in what the kernel tells of packets and interfaces.
fn follow_kernel(shared: &Arc<Shared>, runtime: &Runtime) -> Vec<JoinHandle<()>> {
    let Some(kernel) = &shared.kernel else {
        return Vec::new();
    };
    let mut tasks = vec![runtime.spawn(links::follow(Arc::clone(shared)))];
    if let Some(events) = kernel.take_events() {
        tasks.push(runtime.spawn(take_in(events, Arc::clone(shared))));
    }
    if let Some(log) = kernel.take_log() {
        tracing::info!("the kernel programs log each packet that has an event (ENFORCER_LOG)");
        tasks.push(runtime.spawn(async move {
            if let Err(error) = log.forward().await {
                tracing::error!(%error, "what the kernel programs log is not shown");
            }
        }));
    }
    tasks
}

fn drain(gateway: Option<Gateway>, within: Duration) -> Result<(), RunError> {
    let Some(gateway) = gateway else { return Ok(()) };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(RunError::Runtime)?;
    let cut = runtime.block_on(gateway.drain(Some(within)));
    tracing::info!(requests_cut = cut, "drained");
    Ok(())
}

async fn take_in(events: Events, shared: Arc<Shared>) {
    if let Err(error) = events::take_in(events, shared).await {
        tracing::error!(%error, "events are not shown: the kernel's ring cannot be waited for");
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
        let detached = kernel.generations().detach();
        match detached {
            Ok(()) => tracing::info!("detached from all interfaces"),
            Err(error) => tracing::error!(%error, "not detached everywhere"),
        }
    }
    kernel.syn.restore();
}
