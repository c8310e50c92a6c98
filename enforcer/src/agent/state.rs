//! What the agent's parts share: the kernel half, the gateway's policies, and how things stand.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use enforcer_common::limiter::Params;
use ipnet::IpNet;
use time::OffsetDateTime;

use super::{events::Journal, kept::Kept, metrics::Metrics, off_runtime::Rooms};
use crate::{
    adapt::{law::State, services::Services},
    config::Config,
};
use enforcer_dataplane::{
    Counters, Denials, EventCounts, Events, Flows, Generations, Heartbeat, InForce, Kernel, KernelError,
    KernelLog, Recents, Sketch, Syn, View,
};
use enforcer_gateway::{Listeners, Revoker, policies::Policies};
use enforcer_model::{Level, Name, PolicySet, flow::Identity};
use enforcer_policy::{Loaded, Problems};
use enforcer_supervision::{
    Parts,
    sync::{Guard, Rank, Ranked, Serial},
};
use enforcer_sys::sysctl::Shortfall;
use enforcer_telemetry::audit::{Audit, record::Event};

/// Everything that parts of the agent ask each other for.
pub struct Shared {
    /// `None`: the agent is a gateway only.
    pub kernel: Option<KernelHalf>,
    /// `None`: the agent has no gateway.
    pub policies: Option<Policies>,
    /// What services do.
    pub services: Services,
    /// Metrics of the agent itself.
    pub metrics: Metrics,
    /// The latest packets that were dropped.
    pub journal: Journal,
    /// Sources that are never denied.
    pub management: Vec<IpNet>,
    /// What operators have ordered, as it outlives the agent.
    pub kept: Kept,
    /// Which parts of the agent make progress.
    pub parts: Parts,
    /// Held while sockets are looked through.
    pub(super) destroying: tokio::sync::Mutex<()>,
    revoker: OnceLock<Revoker>,
    listeners: OnceLock<Arc<Listeners>>,
    configuration: ArcSwapOption<Config>,
    audit: OnceLock<Audit>,
    ready: AtomicBool,
    /// How things stand: a snapshot, replaced in whole.
    standing: ArcSwap<Standing>,
    /// Who replaces it, one at a time.
    changing: Ranked<()>,
    /// For what requests ask of the kernel.
    pub(crate) rooms: Rooms,
    started: Instant,
}

/// The kernel half, for several threads.
pub struct KernelHalf {
    /// Verified connections.
    pub flows: Arc<Flows>,
    /// Sources that were verified recently.
    pub recents: Arc<Recents>,
    /// Denials.
    pub denials: Denials,
    /// Revoked connections.
    pub revoked: Arc<enforcer_dataplane::Revoked>,
    /// Counters.
    pub counters: Arc<Counters>,
    /// The sketch.
    pub sketch: Arc<Sketch>,
    /// The agent's sign of life.
    pub heartbeat: Heartbeat,
    /// What the kernel half began with.
    pub began: enforcer_dataplane::Standing,
    /// What became of events that are not taken in.
    pub event_counts: EventCounts,
    /// Until they are taken in.
    events: Ranked<Option<Events>>,
    log: Ranked<Option<KernelLog>>,
    /// SYN defence.
    pub syn: Syn,
    generations: Serial<Generations>,
    /// What is in force, which the controller changes in short steps.
    in_force: Arc<Serial<InForce>>,
}

/// How things stand. Requests read one that never changes.
#[derive(Clone, Default)]
pub struct Standing {
    /// What the kernel runs.
    pub kernel: Arc<View>,
    /// The policies in force.
    pub set: Arc<PolicySet>,
    /// Counts up from 1.
    pub generation: u64,
    /// Of the policies in force.
    pub digest: String,
    /// When they came into force.
    pub since: Option<OffsetDateTime>,
    /// Why a later change is not in force.
    pub refused: Option<String>,
    /// The configuration file, as it was read last.
    pub configured: Arc<Configured>,
    /// Each adaptive limit, as the controller has it.
    pub adaptive: BTreeMap<(Name, Name), AdaptiveRate>,
    /// Each policy's state.
    pub states: BTreeMap<Name, State>,
    /// Each policy with SYN defence: whether SYNs are answered now.
    pub answering: BTreeMap<Name, bool>,
    /// What SYN defence lacks.
    pub syn_shortfalls: Vec<Shortfall>,
}

/// What became of the configuration file when it was read last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configured {
    /// Why it is not in force.
    pub refused: Option<String>,
    /// Fields whose new values need a restart.
    pub needs_restart: Vec<&'static str>,
}

/// A limit that the controller moves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaptiveRate {
    /// Per second, now.
    pub now: f64,
    /// Never below.
    pub floor: f64,
    /// Never above.
    pub rate: f64,
}

impl From<Kernel> for KernelHalf {
    fn from(kernel: Kernel) -> Self {
        let Kernel {
            flows,
            recents,
            denials,
            revoked,
            counters,
            sketch,
            heartbeat,
            events,
            event_counts,
            log,
            syn,
            generations,
            standing,
        } = kernel;
        Self {
            flows,
            recents,
            denials,
            revoked,
            counters,
            sketch,
            heartbeat,
            began: standing,
            event_counts,
            events: Ranked::new(Rank::Once, Some(events)),
            log: Ranked::new(Rank::Once, log),
            syn,
            in_force: Arc::clone(generations.store.in_force()),
            generations: Serial::new(Rank::Apply, generations),
        }
    }
}

impl KernelHalf {
    /// The events, for the one who takes them in: once.
    pub fn take_events(&self) -> Option<Events> {
        self.events.lock().take()
    }

    /// What the programs log, for the one who hands it on: once.
    pub fn take_log(&self) -> Option<KernelLog> {
        self.log.lock().take()
    }

    /// The programs and tables, for one at a time: not for requests, which read [`Standing::kernel`].
    pub fn generations(&self) -> Guard<'_, Generations> {
        self.generations.lock()
    }
}

impl Standing {
    /// Shows what the kernel runs now, unless a later view has overtaken this one.
    fn show(&mut self, view: Arc<View>) {
        if self.kernel.version < view.version {
            self.kernel = view;
        }
    }
}

impl Shared {
    /// With nothing in force yet.
    #[must_use]
    pub fn new(
        kernel: Option<KernelHalf>,
        policies: Option<Policies>,
        metrics: Metrics,
        management: Vec<IpNet>,
        kept: Kept,
    ) -> Self {
        Self {
            kernel,
            policies,
            services: Services::default(),
            metrics,
            journal: Journal::default(),
            management,
            kept,
            parts: Parts::default(),
            destroying: tokio::sync::Mutex::default(),
            revoker: OnceLock::new(),
            listeners: OnceLock::new(),
            configuration: ArcSwapOption::empty(),
            audit: OnceLock::new(),
            ready: AtomicBool::new(false),
            standing: ArcSwap::default(),
            changing: Ranked::new(Rank::Standing, ()),
            rooms: Rooms::default(),
            started: Instant::now(),
        }
    }

    /// Puts loaded policies in force: first in the kernel, which may refuse, then in the gateway, which
    /// does not. What was in force stays if anything fails.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn apply(&self, loaded: Loaded) -> Result<u64, KernelError> {
        let Loaded { set, digest, .. } = loaded;
        let set = Arc::new(set);
        let mut view = None;
        if let Some(kernel) = &self.kernel {
            let mut generations = kernel.generations();
            let applied = generations.apply(&set, &kernel.counters);
            let after = generations.view();
            drop(generations);
            if let Err(error) = applied {
                self.change(|standing| standing.show(after));
                return Err(error);
            }
            view = Some(after);
        }
        if let Some(policies) = &self.policies {
            policies.replace(PolicySet::clone(&set));
        }
        let generation = self.change(|standing| {
            if let Some(view) = view {
                standing.show(view);
            }
            standing.generation += 1;
            standing.set = Arc::clone(&set);
            standing.digest.clone_from(&digest);
            standing.since = Some(OffsetDateTime::now_utc());
            standing.refused = None;
            standing.generation
        });
        self.metrics
            .generation
            .set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.metrics.policies_refused.set(0);
        self.record(&Event::PoliciesApplied {
            generation,
            digest: &digest,
            packet_policies: set.packet_policies.len(),
            routes: set.routes.len(),
            services: set.services.len(),
            issuers: set.issuers.len(),
        });
        tracing::info!(
            generation,
            packet_policies = set.packet_policies.len(),
            routes = set.routes.len(),
            services = set.services.len(),
            issuers = set.issuers.len(),
            "policies in force"
        );
        Ok(generation)
    }

    /// Notes that changed policies are not in force, and why.
    pub fn refuse(&self, why: &str) {
        self.metrics.policy_load_failures.inc();
        self.metrics.policies_refused.set(1);
        self.change(|standing| standing.refused = Some(why.to_owned()));
        self.record(&Event::PoliciesRefused { why });
        tracing::error!(
            problems = why,
            "changed policies are refused; the last good ones stay in force"
        );
    }

    /// Applies the policies in force to the interfaces that there are, if those that they are about have changed. `gone`:
    /// indices of interfaces that have left, though others may have them by now.
    pub fn follow_interfaces(&self, gone: &BTreeSet<u32>) {
        if let Some(kernel) = &self.kernel {
            self.follow(kernel.generations(), kernel, gone);
        }
    }

    /// The same for the controller, which does not wait for an application that is under way: that one looks at the
    /// interfaces itself.
    pub(super) fn look_at_interfaces(&self) {
        if let Some(kernel) = &self.kernel
            && let Some(generations) = kernel.generations.try_lock()
        {
            self.follow(generations, kernel, &BTreeSet::new());
        }
    }

    fn follow(&self, mut generations: Guard<'_, Generations>, kernel: &KernelHalf, gone: &BTreeSet<u32>) {
        let followed = generations.refresh(gone, &kernel.counters);
        let view = generations.view();
        drop(generations);
        self.change(|standing| standing.show(view));
        match followed {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!("interfaces have changed; policies applied to those that are there now");
            }
            // Limits are still moved on the interfaces that are attached.
            Err(error) => tracing::error!(%error, "interfaces cannot be followed"),
        }
    }

    /// Takes in what a change of the policy files has led to.
    pub fn changed(&self, outcome: Result<Loaded, Problems>) {
        match outcome {
            Err(problems) => self.refuse(&problems.to_string()),
            Ok(loaded) if is_empty(&loaded.set) && !is_empty(&self.standing().set) => {
                self.refuse(
                    "no document is left: that would lift every limit and close every route. Keep one document, \
                     or restart the agent to begin without policies",
                );
            }
            Ok(loaded) => {
                if let Some(problems) = self.unknown_names(&loaded.set) {
                    return self.refuse(&problems.to_string());
                }
                for warning in &loaded.warnings {
                    tracing::warn!(%warning, "policy");
                }
                if let Err(error) = self.apply(loaded) {
                    self.refuse(&error.to_string());
                }
            }
        }
    }

    /// The audit log, if there is one.
    #[must_use]
    pub fn audit(&self) -> Option<&Audit> {
        self.audit.get()
    }

    /// Says where what is decided is recorded from now on. Only the first counts: there is one log.
    pub fn set_audit(&self, audit: Audit) {
        self.audit.get_or_init(|| audit);
    }

    /// Records what has been done, if there is an audit log.
    pub fn record(&self, event: &Event<'_>) {
        if let Some(audit) = self.audit() {
            audit.event(event);
        }
    }

    /// What ends connections of the gateway, once it has started.
    #[must_use]
    pub fn revoker(&self) -> Option<&Revoker> {
        self.revoker.get()
    }

    /// Says what does. Only the first counts: there is one gateway.
    pub fn set_revoker(&self, revoker: Revoker) {
        self.revoker.get_or_init(|| revoker);
    }

    /// The gateway's listeners, once it has started.
    #[must_use]
    pub fn listeners(&self) -> Option<&Listeners> {
        self.listeners.get().map(Arc::as_ref)
    }

    /// Says which these are. Only the first count: there is one gateway.
    pub fn set_listeners(&self, listeners: Arc<Listeners>) {
        self.listeners.get_or_init(|| listeners);
    }

    /// Says what is in force beside the policies.
    pub fn is_configured_as(&self, config: &Config) {
        self.configuration.store(Some(Arc::new(config.clone())));
    }

    /// What policies name and the configuration does not have.
    fn unknown_names(&self, set: &PolicySet) -> Option<Problems> {
        let config = self.configuration.load_full()?;
        Problems::of(&crate::config::served::unknown_names(set, &config))
    }

    /// Whether anybody is verified at the addresses of one client.
    #[must_use]
    pub fn is_client_verified(&self, client: &IpNet) -> bool {
        self.kernel
            .as_ref()
            .is_some_and(|kernel| kernel.flows.has_client(client))
    }

    /// Who is verified at an address.
    #[must_use]
    pub fn verified_at(&self, address: IpAddr) -> Vec<Identity> {
        let flows = self
            .kernel
            .as_ref()
            .map(|kernel| kernel.flows.identities_at(address));
        flows
            .unwrap_or_default()
            .into_iter()
            .map(|(_, identity)| identity)
            .collect()
    }

    /// How things stand.
    #[must_use]
    pub fn standing(&self) -> Arc<Standing> {
        self.standing.load_full()
    }

    /// Replaces the snapshot by one that `change` has changed, which is memory's matter alone.
    pub fn change<T>(&self, change: impl FnOnce(&mut Standing) -> T) -> T {
        let _one_at_a_time = self.changing.lock();
        let mut standing = Standing::clone(&self.standing.load());
        let result = change(&mut standing);
        self.standing.store(Arc::new(standing));
        result
    }

    /// Moves a limit, for the controller: `rate` says what each of its levels runs with.
    ///
    /// # Errors
    /// The kernel refuses, or a level cannot run so.
    pub(super) fn adapt(
        &self,
        kernel: &KernelHalf,
        (policy, limit): (&Name, &Name),
        rate: impl Fn(&Level) -> Result<Params, KernelError>,
    ) -> Result<(), KernelError> {
        let mut in_force = kernel.in_force.lock();
        let adapted = in_force.adapt(policy, limit, rate);
        let view = in_force.view();
        drop(in_force);
        self.change(|standing| standing.show(view));
        adapted
    }

    /// Begins or ends answering SYNs under a policy, for the controller.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn answer_syns(
        &self,
        kernel: &KernelHalf,
        policy: &Name,
        on: bool,
    ) -> Result<(), KernelError> {
        let mut in_force = kernel.in_force.lock();
        let answered = in_force.answer_syns(policy, on);
        let view = in_force.view();
        drop(in_force);
        self.change(|standing| standing.show(view));
        answered
    }

    /// Whether policies are in force and connections accepted.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Says so.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// How long the agent has run.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}

fn is_empty(set: &PolicySet) -> bool {
    set.packet_policies.is_empty()
        && set.issuers.is_empty()
        && set.services.is_empty()
        && set.routes.is_empty()
}
