//! The controller: in each interval it looks at every packet policy with adaptive limits, and moves
//! those limits between their floor and their rate. It has a thread of its own, and chores beside: what goes wrong in one
//! keeps no other from being done.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use enforcer_common::verdict::{Direction, Reason, Verdict};

use super::{
    chores::Chores,
    heartbeat::LastInterval,
    state::{AdaptiveRate, KernelHalf, Shared},
    syn::SynWatch,
};
use crate::adapt::{
    law::{Observation, Regulator, State, Step, next_rate},
    services::Latencies,
};
use enforcer_dataplane::{Count, KernelError};
use enforcer_model::{Level, Name, PacketLimit, PacketPolicy, PolicySet, Port, Transport};
use enforcer_supervision::Part;
use enforcer_sys::clock::monotonic_ns;

/// Below this part of change a rate is left as it is.
const NOTABLE: f64 = 0.01;
/// Rates are set in units of this part of a second, so that slow ones keep their precision.
const PERIOD: Duration = Duration::from_secs(1_000);
/// How long verified sources are remembered at least, for policies that come later.
const REMEMBERED: Duration = Duration::from_secs(600);

/// How often it says that it is there, however long an interval is.
const BEAT: Duration = Duration::from_secs(1);
/// How often is looked whether it has ended.
const POLL: Duration = Duration::from_millis(5);

/// The controller's thread.
pub struct Running {
    /// Dropping it ends the thread.
    stop: SyncSender<()>,
    thread: JoinHandle<()>,
}

/// What the controller remembers between intervals.
pub struct Controller {
    shared: Arc<Shared>,
    target: Duration,
    policies: BTreeMap<Name, Watched>,
    syn: SynWatch,
    chores: Chores,
    last: Instant,
}

#[derive(Default)]
struct Watched {
    regulator: Regulator,
    arrived: u64,
    over: u64,
    /// Counters have been read once, so that differences mean something.
    known: bool,
}

/// Says that a policy's state has changed. That it is calm again is no warning.
fn tell_state(policy: &PacketPolicy, before: State, step: &Step, seen: &Observation) {
    let (policy, from, to) = (&policy.name, before, step.state);
    let (arrived, over) = (seen.arrived.round(), seen.over.round());
    if to == State::Calm {
        tracing::info!(%policy, %from, %to, arrived_per_second = arrived, "state changed");
    } else {
        tracing::warn!(
            %policy,
            %from,
            %to,
            arrived_per_second = arrived,
            over_limits_per_second = over,
            latency_seconds = seen.latency,
            "state changed"
        );
    }
}

impl Controller {
    /// `target`: what the latency of services should stay below.
    #[must_use]
    pub fn new(shared: Arc<Shared>, target: Duration, chores: Chores) -> Self {
        Self {
            shared,
            target,
            policies: BTreeMap::new(),
            syn: SynWatch::default(),
            chores,
            last: Instant::now(),
        }
    }

    /// Starts the thread, with an interval every `period`. `last` is told of each that is finished.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(mut self, period: Duration, last: LastInterval, part: Part) -> io::Result<Running> {
        let (stop, stopped) = sync_channel(0);
        let thread = thread::Builder::new()
            .name("controller".to_owned())
            .spawn(move || {
                part.is_here();
                let mut due = Instant::now();
                loop {
                    self.tick();
                    last.finished();
                    // One that was missed is not made up for, and between two there is a pause.
                    due = (due + period).max(Instant::now() + period / 4);
                    if !wait(due, &part, &stopped) {
                        break;
                    }
                }
                part.end();
            })?;
        Ok(Running { stop, thread })
    }

    /// One interval.
    pub fn tick(&mut self) {
        let activity = self.shared.services.take();
        let shared = Arc::clone(&self.shared);
        let Some(kernel) = &shared.kernel else { return };
        self.chores.run("denials", || kernel.denials.expire());
        // The kernel tells of interfaces as they come, but its messages can be lost.
        shared.look_at_interfaces();
        self.chores
            .run("recent-sources", || follow_recents(&shared, kernel));
        self.chores.run("revoked-flows", || kernel.revoked.expire());
        let elapsed = self.last.elapsed().as_secs_f64().max(0.001);
        self.last = Instant::now();
        let set = Arc::clone(&shared.standing().kernel.set);
        self.forget(&set);
        let (chores, syn) = (&mut self.chores, &mut self.syn);
        chores.run("syn-defence", || {
            syn.tick(&shared, kernel, &set, Duration::from_secs_f64(elapsed))
        });
        for policy in &set.packet_policies {
            let latency = Self::usual_latency(policy, &activity);
            let adapted = self.adapt(kernel, policy, elapsed, latency);
            self.chores.run("adaptive-limits", || adapted);
        }
    }

    /// Looks at a policy, and moves its limits.
    fn adapt(
        &mut self,
        kernel: &KernelHalf,
        policy: &PacketPolicy,
        elapsed: f64,
        latency: Option<f64>,
    ) -> Result<(), KernelError> {
        let Some(seen) = self.observe(kernel, policy, elapsed, latency)? else {
            return Ok(());
        };
        let watched = self.policies.entry(policy.name.clone()).or_default();
        let before = watched.regulator.state();
        let step = watched.regulator.observe(&seen);
        if step.state != before {
            tell_state(policy, before, &step, &seen);
        }
        self.shared
            .change(|standing| standing.states.insert(policy.name.clone(), step.state));
        move_limits(&self.shared, kernel, policy, step)
    }

    /// What services usually took for requests that came under `policy`, by the gateway's ports that it is about.
    fn usual_latency(policy: &PacketPolicy, activity: &BTreeMap<u16, Latencies>) -> Option<f64> {
        let names = |port: &Port, number: u16| port.protocol == Transport::Tcp && port.number == number;
        let mut all = Latencies::default();
        for (number, latencies) in activity {
            let reaches = policy.ports.is_empty() || policy.ports.iter().any(|port| names(port, *number));
            if reaches {
                all.add(latencies);
            }
        }
        all.usual()
    }

    /// Drops what no policy speaks of any more.
    fn forget(&mut self, set: &PolicySet) {
        let named = |name: &Name| set.packet_policies.iter().any(|policy| policy.name == *name);
        self.policies.retain(|name, _| named(name));
        self.shared.change(|standing| {
            standing.states.retain(|name, _| named(name));
            standing.adaptive.retain(|(policy, limit), _| {
                set.packet_policies.iter().any(|document| {
                    document.name == *policy
                        && document
                            .limits
                            .iter()
                            .any(|each| each.name == *limit && each.adaptive.is_some())
                })
            });
        });
    }

    /// What came under a policy since the last interval. `None` the first time.
    fn observe(
        &mut self,
        kernel: &KernelHalf,
        policy: &PacketPolicy,
        elapsed: f64,
        latency: Option<f64>,
    ) -> Result<Option<Observation>, KernelError> {
        let number = self.shared.standing().kernel.number(&policy.name);
        let Some(number) = number else { return Ok(None) };
        let counts = kernel.counters.said_by_policy(number)?;
        let ingress = |count: &&Count| count.direction == Direction::Ingress;
        let arrived: u64 = counts
            .iter()
            .filter(ingress)
            .map(|count| count.total.packets)
            .sum();
        let over: u64 = counts
            .iter()
            .filter(ingress)
            .filter(|count| count.verdict != Verdict::Pass && is_limit(count.reason))
            .map(|count| count.total.packets)
            .sum();
        let watched = self.policies.entry(policy.name.clone()).or_default();
        let seen = watched.known.then(|| Observation {
            arrived: per_second(arrived, watched.arrived, elapsed),
            over: per_second(over, watched.over, elapsed),
            latency,
            target: self.target.as_secs_f64(),
        });
        *watched = Watched {
            arrived,
            over,
            known: true,
            regulator: watched.regulator,
        };
        Ok(seen)
    }
}

/// Waits for the next interval, and says meanwhile that the controller is there. `false`: it is to end.
fn wait(due: Instant, part: &Part, stopped: &Receiver<()>) -> bool {
    loop {
        part.beat();
        let left = due.saturating_duration_since(Instant::now());
        match stopped.recv_timeout(left.min(BEAT)) {
            Err(RecvTimeoutError::Timeout) if left <= BEAT => return true,
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}

impl Running {
    /// Ends it, and waits for its interval until `deadline` at most. Whether it has ended.
    pub fn stop(self, deadline: Instant) -> bool {
        drop(self.stop);
        while !self.thread.is_finished() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        self.thread.is_finished()
    }
}

/// Keeps the sources that have verified connections, and forgets those that have had none for longer than any
/// policy asks.
fn follow_recents(shared: &Shared, kernel: &KernelHalf) -> Result<(), KernelError> {
    let set = Arc::clone(&shared.standing().kernel.set);
    let asked = set.packet_policies.iter().filter_map(|policy| policy.recent);
    let lasts = asked.map(|recent| recent.lasts).fold(REMEMBERED, Duration::max);
    kernel
        .recents
        .sweep(monotonic_ns(), lasts, || kernel.flows.clients())
}

fn is_limit(reason: Reason) -> bool {
    reason.limit_place().is_some() || reason == Reason::OverBudget
}

#[expect(clippy::cast_precision_loss, reason = "a rate for deciding, not for counting")]
fn per_second(now: u64, before: u64, elapsed: f64) -> f64 {
    now.saturating_sub(before) as f64 / elapsed
}

/// Moves a policy's adaptive limits as the step says.
fn move_limits(
    shared: &Shared,
    kernel: &KernelHalf,
    policy: &PacketPolicy,
    step: Step,
) -> Result<(), KernelError> {
    for limit in &policy.limits {
        let Some(adaptive) = limit.adaptive else { continue };
        let key = (policy.name.clone(), limit.name.clone());
        let (floor, rate) = (adaptive.floor.per_second(), limit.budget.rate.per_second());
        let standing = shared.standing();
        let known = standing.adaptive.get(&key).copied();
        // A limit that was changed runs at its own rate again.
        let adapted = standing.kernel.adapted.contains(&key);
        let before = known
            .filter(|_| adapted)
            .map_or(rate, |known| known.now.clamp(floor.min(rate), rate));
        let now = next_rate(before, floor, rate, step.cause);
        let settled = now.total_cmp(&floor).is_eq() || now.total_cmp(&rate).is_eq();
        if (now - before).abs() > before * NOTABLE || (settled && now.total_cmp(&before).is_ne()) {
            set_rate(shared, kernel, (policy, limit), now, rate)?;
            tracing::warn!(
                policy = %policy.name,
                limit = %limit.name,
                from_per_second = before.round(),
                to_per_second = now.round(),
                state = %step.state,
                cause = %step.cause,
                "limit adapted"
            );
        }
        shared.change(|standing| standing.adaptive.insert(key, AdaptiveRate { now, floor, rate }));
    }
    Ok(())
}

fn set_rate(
    shared: &Shared,
    kernel: &KernelHalf,
    (policy, limit): (&PacketPolicy, &PacketLimit),
    now: f64,
    rate: f64,
) -> Result<(), KernelError> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between one and the configured rate, times a thousand seconds"
    )]
    let amount = (now * PERIOD.as_secs_f64()).max(1.0) as u64;
    let period_ns = u64::try_from(PERIOD.as_nanos()).unwrap_or(u64::MAX);
    let level = |level: &Level| {
        if now >= rate {
            return Ok(level.params);
        }
        let amount = amount.saturating_mul(u64::from(level.times.get()));
        level
            .params
            .at_rate(amount, period_ns)
            .map_err(KernelError::Params)
    };
    shared.adapt(kernel, (&policy.name, &limit.name), level)
}
