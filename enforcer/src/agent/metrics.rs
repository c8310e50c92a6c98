//! The agent's own metrics, and the kernel's counters as metrics. Every label comes from policies or
//! from a fixed list, so that no stranger can make series.

use prometheus::{
    GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::{AtomicU64, GenericCounterVec},
    proto::MetricFamily,
};

use super::state::{KernelHalf, Shared, Standing};
use crate::adapt::law::State;
use enforcer_dataplane::{Count, KernelError, View};
use enforcer_gateway::identity::verifier::IssuerStatus;
use enforcer_model::Name;
use enforcer_supervision::sync::{Rank, Ranked};

/// The policy label of packets that no policy is about.
const NO_POLICY: &str = "";

/// The agent's metrics.
pub struct Metrics {
    /// Where all are registered, the gateway's too.
    pub registry: Registry,
    /// The generation in force.
    pub generation: IntGauge,
    /// Changes of policy files that were refused.
    pub policy_load_failures: IntCounter,
    /// 1 while the files say something that is refused.
    pub policies_refused: IntGauge,
    /// Readings of the changed configuration file that were refused.
    pub configuration_failures: IntCounter,
    /// 1 while that file says something that is refused.
    pub configuration_refused: IntGauge,
    /// Connections entered into the kernel.
    pub flows_entered: IntCounter,
    /// Connections for which there was no room.
    pub flows_refused: IntCounterVec,
    /// Proofs that did not hold.
    pub authentication_failures: IntCounter,
    /// Sources denied for failed authentication.
    pub denials: IntCounter,
    /// Sources that were over the limit of failures and not denied.
    pub denials_spared: IntCounterVec,
    /// Failures that were not counted: the queue was full.
    pub failures_uncounted: IntCounter,
    /// Denied sources whose connections were not ended: too many waited.
    pub endings_skipped: IntCounter,
    /// Other processes' sockets that were destroyed.
    pub sockets_destroyed: IntCounterVec,
    /// Per second, as the controller has it.
    pub adaptive_rate: GaugeVec,
    /// Samples of dropped packets that were taken in.
    pub events: IntCounter,
    events_skipped: IntCounter,
    events_lost: IntCounter,
    packets: GenericCounterVec<AtomicU64>,
    shadow_packets: GenericCounterVec<AtomicU64>,
    bytes: GenericCounterVec<AtomicU64>,
    verified_flows: IntGauge,
    verified_identities: IntGauge,
    recently_verified: IntGauge,
    revocations_unkept: IntGauge,
    denials_unkept: IntGauge,
    denied_prefixes: IntGauge,
    interfaces: IntGaugeVec,
    interface_failures: IntGauge,
    states: IntGaugeVec,
    sketch_bytes: IntGauge,
    issuer_keys_age: GaugeVec,
    issuer_keys_failing: IntGaugeVec,
    syn_answering: IntGaugeVec,
    syn_shortfalls: IntGaugeVec,
    /// One scrape at a time: what is read from the kernel is filled in anew for each.
    scrape: Ranked<()>,
}

impl Metrics {
    /// Registers all of them.
    ///
    /// # Errors
    /// A name is taken, which a build of this crate rules out.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help)?);
        let counter = |name: &str, help: &str| register(&registry, IntCounter::new(name, help)?);
        let counters = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
        };
        let verdict = ["direction", "policy", "reason", "limit", "verdict"];
        let version = gauges("enforcer_build_info", "The agent's version.", &["version"])?;
        version.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            generation: gauge("enforcer_generation", "Number of the policy generation in force.")?,
            policy_load_failures: counter(
                "enforcer_policy_load_failures_total",
                "Changes of the policy files that were refused.",
            )?,
            policies_refused: gauge(
                "enforcer_policies_refused",
                "1 while the policy files say something that is refused and older policies stay in force.",
            )?,
            configuration_failures: counter(
                "enforcer_configuration_load_failures_total",
                "Readings of the configuration file on SIGHUP that were refused.",
            )?,
            configuration_refused: gauge(
                "enforcer_configuration_refused",
                "1 while the configuration file, as last read, is refused and the older configuration stays in force.",
            )?,
            flows_entered: counter(
                "enforcer_verified_flows_entered_total",
                "Connections that the gateway verified and the kernel was told of.",
            )?,
            flows_refused: counters(
                "enforcer_verified_flows_refused_total",
                "Verified connections that the kernel could not be told of, by what is full.",
                &["cause"],
            )?,
            authentication_failures: counter(
                "enforcer_authentication_failures_total",
                "Certificates and tokens that were offered and did not hold.",
            )?,
            denials: counter(
                "enforcer_authentication_denials_total",
                "Sources denied in the kernel because their authentication kept failing.",
            )?,
            denials_spared: counters(
                "enforcer_authentication_denials_spared_total",
                "Sources whose authentication kept failing and that were not denied, by why.",
                &["why"],
            )?,
            failures_uncounted: counter(
                "enforcer_authentication_failures_uncounted_total",
                "Failures that no denial can follow from, because too many waited to be counted.",
            )?,
            endings_skipped: counter(
                "enforcer_authentication_endings_skipped_total",
                "Denied sources whose open connections were left to end by themselves, because too many waited.",
            )?,
            sockets_destroyed: counters(
                "enforcer_sockets_destroyed_total",
                "Sockets of other processes that were destroyed because their peers were revoked, by protocol.",
                &["protocol"],
            )?,
            adaptive_rate: register(
                &registry,
                GaugeVec::new(
                    Opts::new(
                        "enforcer_adaptive_rate",
                        "Rate per second that the controller has set a limit to.",
                    ),
                    &["policy", "limit"],
                )?,
            )?,
            events: counter(
                "enforcer_events_total",
                "Samples of dropped packets that the agent took in.",
            )?,
            events_skipped: counter(
                "enforcer_events_skipped_total",
                "Dropped packets without an event, because of the rate that bounds events.",
            )?,
            events_lost: counter(
                "enforcer_events_lost_total",
                "Events for which the ring had no room, because the agent was too slow.",
            )?,
            packets: counters(
                "enforcer_packets_total",
                "Packets by direction, policy (empty: none), reason, limit and verdict.",
                &verdict,
            )?,
            shadow_packets: counters(
                "enforcer_shadow_packets_total",
                "What policies in shadow would have done with packets that others decided about, by direction, policy (empty: an automatic denial), reason, limit and verdict.",
                &verdict,
            )?,
            bytes: counters(
                "enforcer_packet_bytes_total",
                "Bytes of the packets in enforcer_packets_total.",
                &verdict,
            )?,
            verified_flows: gauge(
                "enforcer_verified_flows",
                "Verified connections that the kernel knows.",
            )?,
            verified_identities: gauge(
                "enforcer_verified_identities",
                "Identities behind verified connections.",
            )?,
            recently_verified: gauge(
                "enforcer_recently_verified_sources",
                "Sources that have a verified connection or had one recently.",
            )?,
            revocations_unkept: gauge(
                "enforcer_revocations_unkept",
                "1 while the operator's revocations cannot be kept in the state directory, or were lost there.",
            )?,
            denials_unkept: gauge(
                "enforcer_denials_unkept",
                "1 while the operator's denials cannot be kept in the state directory, or were lost there.",
            )?,
            denied_prefixes: gauge(
                "enforcer_denied_prefixes",
                "Prefixes denied by operators or for failed authentication.",
            )?,
            interfaces: gauges(
                "enforcer_interface_attached",
                "1 for each interface that the programs are attached to, with how.",
                &["interface", "xdp", "tc"],
            )?,
            interface_failures: gauge(
                "enforcer_interface_failures",
                "Interfaces that policies name and the programs are not attached to.",
            )?,
            states: gauges(
                "enforcer_policy_state",
                "1 for the state that the controller sees a packet policy in.",
                &["policy", "state"],
            )?,
            syn_answering: gauges(
                "enforcer_syn_answering",
                "1 while SYNs under a packet policy are answered with cookies before the stack.",
                &["policy"],
            )?,
            syn_shortfalls: gauges(
                "enforcer_syn_sysctl_missing",
                "1 for each sysctl that SYN defence needs otherwise and the agent cannot set.",
                &["sysctl"],
            )?,
            issuer_keys_age: register(
                &registry,
                GaugeVec::new(
                    Opts::new(
                        "enforcer_issuer_keys_age_seconds",
                        "Since when the keys of an issuer, as they are used, were read last; absent until they are.",
                    ),
                    &["issuer"],
                )?,
            )?,
            issuer_keys_failing: gauges(
                "enforcer_issuer_keys_failing",
                "1 while the last reading of an issuer's keys has failed.",
                &["issuer"],
            )?,
            sketch_bytes: gauge(
                "enforcer_sketch_bytes",
                "Memory of the sketch of limiters, constant.",
            )?,
            registry,
            scrape: Ranked::new(Rank::Scrape, ()),
        })
    }

    fn refresh_issuers(&self, issuers: &[IssuerStatus]) {
        self.issuer_keys_age.reset();
        self.issuer_keys_failing.reset();
        for issuer in issuers {
            let labels = [issuer.name.as_str()];
            let read = issuer.state.last_success;
            if let Some(age) = read.and_then(|read| read.elapsed().ok()) {
                self.issuer_keys_age
                    .with_label_values(&labels)
                    .set(age.as_secs_f64());
            }
            self.issuer_keys_failing
                .with_label_values(&labels)
                .set(i64::from(issuer.state.last_error.is_some()));
        }
    }

    /// All metrics as they are now. The kernel is asked first, and what it says is filled in then.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn gather(&self, shared: &Shared) -> Result<Vec<MetricFamily>, KernelError> {
        let standing = shared.standing();
        let kernel = shared.kernel.as_ref();
        let reading = kernel
            .map(|kernel| Reading::take(kernel, &standing.kernel))
            .transpose()?;
        let unkept = shared.kept.troubles();
        let is_unkept = |of: &str| i64::from(unkept.iter().any(|(about, _)| *about == of));
        let _one_at_a_time = self.scrape.lock();
        self.revocations_unkept.set(is_unkept("revocations"));
        self.denials_unkept.set(is_unkept("denials"));
        self.refresh_states(&standing);
        if let Some(policies) = &shared.policies {
            self.refresh_issuers(&policies.issuers());
        }
        if let Some(reading) = reading {
            self.refresh(&standing.kernel, &reading);
        }
        Ok(self.registry.gather())
    }

    /// Brings what is read from the kernel up to date.
    fn refresh(&self, view: &View, reading: &Reading) {
        let (flows, identities) = reading.flows;
        self.verified_flows.set(int(flows));
        self.verified_identities.set(int(identities));
        self.recently_verified.set(int(reading.recents));
        self.denied_prefixes.set(int(reading.denials));
        self.sketch_bytes
            .set(i64::try_from(reading.sketch_bytes).unwrap_or(i64::MAX));
        let (skipped, lost) = reading.skipped_and_lost;
        self.events_skipped.reset();
        self.events_skipped.inc_by(skipped);
        self.events_lost.reset();
        self.events_lost.inc_by(lost);
        self.interface_failures.set(int(view.failures.len()));
        self.interfaces.reset();
        for each in &view.attached {
            let labels = [
                each.interface.as_str(),
                &each.xdp.to_string(),
                &each.tc.to_string(),
            ];
            self.interfaces.with_label_values(&labels).set(1);
        }
        // The kernel has the totals. Series of policies that are gone go with them.
        self.packets.reset();
        self.bytes.reset();
        self.shadow_packets.reset();
        for (policy, counts) in &reading.counts {
            match policy {
                None => self.count(NO_POLICY, counts, &Default::default()),
                Some(policy) => self.count(policy.as_str(), counts, &limits_of(view, policy)),
            }
        }
    }

    fn refresh_states(&self, standing: &Standing) {
        self.states.reset();
        for (policy, state) in &standing.states {
            for each in State::ALL {
                let labels = [policy.as_str(), each.name()];
                self.states
                    .with_label_values(&labels)
                    .set(i64::from(each == *state));
            }
        }
        self.syn_answering.reset();
        for (policy, answering) in &standing.answering {
            self.syn_answering
                .with_label_values(&[policy.as_str()])
                .set(i64::from(*answering));
        }
        self.syn_shortfalls.reset();
        for shortfall in &standing.syn_shortfalls {
            self.syn_shortfalls.with_label_values(&[shortfall.sysctl]).set(1);
        }
        self.adaptive_rate.reset();
        for ((policy, limit), rate) in &standing.adaptive {
            self.adaptive_rate
                .with_label_values(&[policy.as_str(), limit.as_str()])
                .set(rate.now);
        }
    }

    fn count(&self, policy: &str, counts: &Counts, limits: &[Vec<Name>; 2]) {
        for count in &counts.verdicts {
            let Some(labels) = labels(count, policy, limits) else {
                continue;
            };
            self.packets
                .with_label_values(&labels)
                .inc_by(count.total.packets);
            self.bytes.with_label_values(&labels).inc_by(count.total.bytes);
        }
        // Most policies are never tried, and have no such series.
        for count in counts.tried.iter().filter(|count| count.total.packets > 0) {
            if let Some(labels) = labels(count, policy, limits) {
                self.shadow_packets
                    .with_label_values(&labels)
                    .inc_by(count.total.packets);
            }
        }
    }
}

/// What a count is called. `None`: the policy has no such limit, so nothing is counted there.
fn labels<'a>(count: &Count, policy: &'a str, limits: &'a [Vec<Name>; 2]) -> Option<[&'a str; 5]> {
    let limit = match count.reason.limit_place() {
        None => "",
        Some((list, index)) => limits[list].get(index)?.as_str(),
    };
    Some([
        count.direction.name(),
        policy,
        count.reason.name(),
        limit,
        count.verdict.name(),
    ])
}

/// What has been counted for a policy.
struct Counts {
    verdicts: Vec<Count>,
    /// What it would have done, in shadow.
    tried: Vec<Count>,
}

impl Counts {
    fn of(kernel: &KernelHalf, policy: u32) -> Result<Self, KernelError> {
        Ok(Self {
            verdicts: kernel.counters.of_policy(policy)?,
            tried: kernel.counters.tried_of_policy(policy)?,
        })
    }
}

/// What one scrape has read from the kernel.
struct Reading {
    /// Connections, and identities behind them.
    flows: (usize, usize),
    recents: usize,
    denials: usize,
    sketch_bytes: u64,
    skipped_and_lost: (u64, u64),
    /// By policy; `None`: of packets that no policy is about.
    counts: Vec<(Option<Name>, Counts)>,
}

impl Reading {
    fn take(kernel: &KernelHalf, view: &View) -> Result<Self, KernelError> {
        let none = (None, Counts::of(kernel, enforcer_common::layout::NO_POLICY)?);
        let mut counts = vec![none];
        for (name, running) in &view.policies {
            counts.push((Some(name.clone()), Counts::of(kernel, running.number)?));
        }
        Ok(Self {
            flows: kernel.flows.count(),
            recents: kernel.recents.count(),
            denials: kernel.denials.list().len(),
            sketch_bytes: kernel.sketch.bytes(),
            skipped_and_lost: kernel.event_counts.skipped_and_lost()?,
            counts,
        })
    }
}

/// The names of a policy's limits, as `PacketPolicy::limit_names` has them.
fn limits_of(view: &View, policy: &Name) -> [Vec<Name>; 2] {
    let mut documents = view.set.packet_policies.iter();
    let document = documents.find(|document| document.name == *policy);
    document
        .map(|document| {
            document
                .limit_names()
                .map(|names| names.into_iter().cloned().collect())
        })
        .unwrap_or_default()
}

fn register<C: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn int(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
