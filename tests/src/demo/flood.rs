//! The same load by the verified client four times: in peace, under two floods that the kernel may drop,
//! and under one that it may not.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::{NonZeroU16, NonZeroU32, NonZeroUsize},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use serde::Serialize;

use super::{
    policies::{EDGE, Mode, PORT, SCOPE},
    screen::Screen,
    setup::{PATIENCE, Stage},
};
use crate::{
    client::Ask,
    flood::{Flood, Running, Sent},
    frame::Payload,
    interface::{self, Received},
    load::{Load, Pace, Report, Reuse},
    metrics::Metrics,
    topology::{NEIGHBOUR_INTERFACE, Neighbour},
};

const CONNECTIONS: u32 = 8;
const REQUESTS_PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(199);
/// Time for the connections to be made and verified; not measured.
const WARM_UP: Duration = Duration::from_secs(2);
const MEASURED: Duration = Duration::from_secs(5);
/// Longer than the load, which ends it.
const FLOOD_AT_MOST: Duration = Duration::from_secs(15);

/// 100.64.0.0/10 has as many addresses as there are spoofed sources, and a few more.
const FIRST_SPOOFED: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
const SPOOFED_SOURCES: u32 = 4_000_000;
/// Packets per second of each sender. There is one sender for each processor, up to [`MOST_SENDERS`], for
/// a veth's receiver works on its sender's processor: a single one would leave the others in peace.
const RATE_PER_SENDER: NonZeroU32 = NonZeroU32::MIN.saturating_add(249_999);
const MOST_SENDERS: usize = 4;

/// Of 100 requests of the verified client, under a flood that the kernel may drop.
const LEAST_SUCCESS: f64 = 99.0;
/// Of the flood's packets that arrived.
const LEAST_DROPPED: f64 = 0.9;
/// What counters read at different times may differ by.
const COUNT_TOLERANCE: f64 = 0.01;

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Phase {
    pub name: String,
    pub load: Report,
    pub p50_us: u128,
    pub p99_us: u128,
    pub max_us: u128,
    pub flood: Option<Arrival>,
    /// What must hold and did not.
    pub broken: Vec<String>,
}

/// What became of a flood.
#[derive(Clone, Debug, Serialize)]
pub struct Arrival {
    pub sources: u32,
    pub sent: u64,
    pub sent_per_second: u64,
    /// Lost by the veth's ring, before the kernel program.
    pub lost: u64,
    /// Reached the kernel program.
    pub arrived: u64,
    /// By `verdict, policy, reason`, as the agent's metrics have them; the verified client's packets and
    /// other traffic of the two interfaces included.
    pub verdicts: BTreeMap<String, u64>,
}

/// What a phase does besides the load.
struct Attack {
    sources: NonZeroU32,
    mode: Mode,
}

pub(super) fn run(stage: &Stage, screen: &Screen) -> Result<Vec<Phase>> {
    let spoofed = NonZeroU32::MIN.saturating_add(SPOOFED_SOURCES - 1);
    let attack = |sources, mode| Some(Attack { sources, mode });
    let phases = [
        ("no flood", None),
        ("4,000,000 spoofed sources", attack(spoofed, Mode::Enforce)),
        ("one heavy source", attack(NonZeroU32::MIN, Mode::Enforce)),
        (
            "4,000,000 spoofed sources, shadow mode",
            attack(spoofed, Mode::Shadow),
        ),
    ];
    let mut measured = Vec::new();
    for (name, attack) in phases {
        screen.step(&format!("The verified client's requests: {name}"));
        if let Some(Attack {
            mode: Mode::Shadow, ..
        }) = attack
        {
            stage.set_mode(Mode::Shadow)?;
        }
        measured.push(measure(stage, name, attack.as_ref())?);
    }
    stage.set_mode(Mode::Enforce)?;
    Ok(measured)
}

fn measure(stage: &Stage, name: &str, attack: Option<&Attack>) -> Result<Phase> {
    let token = stage.fetch_token(SCOPE)?;
    let (client, ask) = (
        stage.verified_client()?,
        Ask::get("/v1/orders/7").with_token(&token)?,
    );
    let load = Load {
        connections: CONNECTIONS,
        pace: Pace::PerSecond(REQUESTS_PER_SECOND),
        reuse: Reuse::KeepAlive,
        warm_up: WARM_UP,
        duration: MEASURED,
    };
    let before = Counters::read(stage)?;
    let served = stage.served();
    let pending = stage.client_thread().begin(load.run(client, ask));
    wait_until_verified(stage, served)?;
    let flood = attack.map(|attack| start(stage, attack)).transpose()?;
    let report = pending.wait()?;
    let sent = flood.map(stop).transpose()?;
    let change = Counters::settled(stage)?.since(&before);
    let mut phase = Phase {
        name: name.to_owned(),
        p50_us: report.percentile(50).as_micros(),
        p99_us: report.percentile(99).as_micros(),
        max_us: report.max().as_micros(),
        load: report,
        flood: None,
        broken: Vec::new(),
    };
    if let (Some(attack), Some(sent)) = (attack, sent) {
        phase.flood = Some(change.arrival(attack, sent));
    }
    phase.judge(attack, &change);
    Ok(phase)
}

/// The load's connections stand, and the kernel knows whose they are.
fn wait_until_verified(stage: &Stage, served_before: [u64; 2]) -> Result<()> {
    let before: u64 = served_before.iter().sum();
    let deadline = Instant::now() + PATIENCE;
    while stage.served().iter().sum::<u64>() < before + u64::from(CONNECTIONS) {
        if Instant::now() > deadline {
            bail!(
                "the verified client's requests do not reach the upstreams; {}",
                stage.agent().log_tail()
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    stage
        .agent()
        .wait_for("verified connections in the kernel", |metrics| {
            metrics.sum("enforcer_verified_flows", &[]) >= f64::from(CONNECTIONS)
        })?;
    Ok(())
}

/// SYNs to the gateway's port: what the stack spends most on, and what fills its queue for new
/// connections. The sources are split between the senders; a single source is sent by all.
fn start(stage: &Stage, attack: &Attack) -> Result<Vec<Running>> {
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let senders = processors.min(MOST_SENDERS) as u32;
    let share = attack.sources.get().div_ceil(senders);
    (0..senders)
        .map(|sender| {
            let flood = Flood {
                interface: NEIGHBOUR_INTERFACE.to_owned(),
                link: Neighbour::Attacker.link(),
                first_source: first_source(attack, sender * share),
                sources: NonZeroU32::MIN.saturating_add(share - 1),
                source_ports: (1024, NonZeroU16::MIN.saturating_add(60_000)),
                target: SocketAddr::new(Neighbour::Attacker.node_ipv4(), PORT),
                payload: Payload::TcpSyn,
                packets: u64::MAX,
                duration: FLOOD_AT_MOST,
                rate: Some(RATE_PER_SENDER),
                first: true,
                processor: Some(sender as usize),
            };
            flood.start(stage.lab().neighbour(Neighbour::Attacker))
        })
        .collect()
}

fn first_source(attack: &Attack, offset: u32) -> IpAddr {
    let offset = if attack.sources == NonZeroU32::MIN {
        0
    } else {
        offset
    };
    IpAddr::V4(Ipv4Addr::from_bits(FIRST_SPOOFED.to_bits() + offset))
}

/// Ends the senders; gives what they sent together, and for how long.
fn stop(senders: Vec<Running>) -> Result<Sent> {
    let mut total = Sent {
        packets: 0,
        elapsed: Duration::ZERO,
    };
    for sender in senders {
        let sent = sender.stop()?;
        total.packets += sent.packets;
        total.elapsed = total.elapsed.max(sent.elapsed);
    }
    Ok(total)
}

/// What interfaces and agent have counted so far.
struct Counters {
    attacker: Received,
    client: Received,
    verdicts: BTreeMap<String, u64>,
    dropped: u64,
}

impl Counters {
    fn read(stage: &Stage) -> Result<Self> {
        let metrics = stage.agent().metrics()?;
        let received =
            |neighbour: Neighbour| interface::received(stage.lab().node(), neighbour.node_interface());
        Ok(Self {
            attacker: received(Neighbour::Attacker)?,
            client: received(Neighbour::Client)?,
            verdicts: verdicts(&metrics),
            dropped: ingress(&metrics, &[("verdict", "drop"), ("policy", EDGE)]),
        })
    }

    /// Reads until two readings in a row agree, for the agent may read the kernel's counters now and then.
    fn settled(stage: &Stage) -> Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        let mut last = Self::read(stage)?;
        loop {
            std::thread::sleep(Duration::from_millis(1100));
            let next = Self::read(stage)?;
            let still = next
                .verdicts
                .values()
                .sum::<u64>()
                .abs_diff(last.verdicts.values().sum())
                < 100;
            if still || Instant::now() > deadline {
                return Ok(next);
            }
            last = next;
        }
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            attacker: self.attacker.since(before.attacker),
            client: self.client.since(before.client),
            verdicts: self
                .verdicts
                .iter()
                .map(|(key, count)| {
                    (
                        key.clone(),
                        count - before.verdicts.get(key).unwrap_or(&0).min(count),
                    )
                })
                .filter(|(_, count)| *count > 0)
                .collect(),
            dropped: self.dropped.saturating_sub(before.dropped),
        }
    }

    fn arrival(&self, attack: &Attack, sent: Sent) -> Arrival {
        Arrival {
            sources: attack.sources.get(),
            sent: sent.packets,
            sent_per_second: (sent.packets as f64 / sent.elapsed.as_secs_f64()) as u64,
            lost: self.attacker.lost,
            arrived: self.attacker.packets,
            verdicts: self.verdicts.clone(),
        }
    }
}

impl Phase {
    fn judge(&mut self, attack: Option<&Attack>, change: &Counters) {
        let enforcing = attack.is_none_or(|attack| attack.mode == Mode::Enforce);
        if enforcing && self.load.success_percent() < LEAST_SUCCESS {
            self.broken.push(format!(
                "{}: {:.2} % of the verified client's requests succeeded, {LEAST_SUCCESS} % must",
                self.name,
                self.load.success_percent()
            ));
        }
        let Some(flood) = &self.flood else { return };
        expect_equal(
            &mut self.broken,
            &self.name,
            "sent packets",
            flood.sent,
            flood.arrived + flood.lost,
        );
        if enforcing {
            let counted = change.verdicts.values().sum();
            let received = change.attacker.packets + change.client.packets;
            expect_equal(
                &mut self.broken,
                &self.name,
                "packets with a verdict",
                counted,
                received,
            );
            if (change.dropped as f64) < flood.arrived as f64 * LEAST_DROPPED {
                self.broken.push(format!(
                    "{}: the kernel dropped {} of {} packets that arrived",
                    self.name, change.dropped, flood.arrived
                ));
            }
        }
    }
}

fn expect_equal(broken: &mut Vec<String>, phase: &str, what: &str, got: u64, expected: u64) {
    if got.abs_diff(expected) as f64 > expected as f64 * COUNT_TOLERANCE {
        broken.push(format!(
            "{phase}: {got} {what}, but {expected} were counted on the wire"
        ));
    }
}

fn verdicts(metrics: &Metrics) -> BTreeMap<String, u64> {
    let mut verdicts = BTreeMap::new();
    for sample in metrics.samples("enforcer_packets_total") {
        if sample.label("direction") == "ingress" {
            let (verdict, policy, reason) = (
                sample.label("verdict"),
                sample.label("policy"),
                sample.label("reason"),
            );
            let policy = if policy.is_empty() { "no policy" } else { policy };
            *verdicts
                .entry(format!("{verdict}, {policy}, {reason}"))
                .or_default() += sample.value as u64;
        }
    }
    verdicts
}

fn ingress(metrics: &Metrics, labels: &[(&str, &str)]) -> u64 {
    let labels: Vec<(&str, &str)> = [("direction", "ingress")]
        .into_iter()
        .chain(labels.iter().copied())
        .collect();
    metrics.sum("enforcer_packets_total", &labels) as u64
}
