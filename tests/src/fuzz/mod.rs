//! The kernel's parser against a second one: random and mutated packets through the program that
//! enforces, each compared with what [`reference`](crate::reference) says of the same bytes.
//!
//! Every packet that can be read is denied by policy, so that the program tells of it: addresses, ports,
//! protocol and fragments are compared one by one, not only the verdict.

mod frames;

use std::{
    collections::BTreeMap,
    fmt, fs,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use enforcer_common::{
    layout::NO_POLICY,
    verdict::{Direction, Reason, Verdict},
};
use enforcer_dataplane::{Config, Decision, Event, EventRate, Offline, XdpChoice};
use time::OffsetDateTime;

use self::frames::Frames;
use crate::reference::{Packet, Reading, read};

const INTERFACE: &str = "fuzz0";
const ALL: &str = "all";
const PORTS: &str = "ports";
/// What the second policy is about.
const SERVICES: [(u8, u16); 3] = [(6, 443), (17, 53), (17, 443)];
const POLICIES: &str = "apiVersion: enforcer.dev/v1
kind: PacketPolicy
metadata: {name: all}
spec: {interfaces: [fuzz0], deny: [{cidr: 0.0.0.0/0}, {cidr: '::/0'}]}
---
apiVersion: enforcer.dev/v1
kind: PacketPolicy
metadata: {name: ports}
spec:
  interfaces: [fuzz0]
  ports: [tcp/443, udp/53, udp/443]
  deny: [{cidr: 0.0.0.0/0}, {cidr: '::/0'}]
";

/// How often progress is told.
const PERIOD: Duration = Duration::from_secs(5);
/// Differences that are shown before a run is given up.
const SHOWN: usize = 5;

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    pub packets: u64,
    pub took: Duration,
    /// How many of each kind there were: policy and reason.
    pub kinds: BTreeMap<(&'static str, &'static str), u64>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.packets as f64 / self.took.as_secs_f64();
        writeln!(
            f,
            "{} packets in {:.1} s, {rate:.0}/s: none is read otherwise than by the reference",
            self.packets,
            self.took.as_secs_f64()
        )?;
        for ((policy, reason), count) in &self.kinds {
            let share = *count as f64 * 100.0 / self.packets as f64;
            writeln!(f, "  {reason:18} {policy:6} {count:>10}  {share:5.1} %")?;
        }
        Ok(())
    }
}

/// One opinion of a packet.
#[derive(Debug, PartialEq)]
struct Opinion {
    policy: &'static str,
    reason: Reason,
    verdict: Verdict,
    /// What is known of a packet that is dropped, and could be read.
    packet: Option<Packet>,
}

/// Runs `packets` packets made from `seed`.
///
/// # Errors
/// The two parsers differ, or the programs cannot be loaded.
pub fn run(packets: u64, seed: u64, progress: &mut dyn FnMut(&str)) -> Result<Outcome> {
    let mut bench = Bench::new()?;
    let mut frames = Frames::new(seed);
    let mut kinds = BTreeMap::new();
    let mut differences = Vec::new();
    let started = Instant::now();
    let mut told = started;
    for number in 0..packets {
        let frame = frames.next_frame();
        let expected = bench.expected(frame);
        let found = bench.found(frame)?;
        if expected != found {
            differences.push(format!(
                "packet {number} of seed {seed}: the reference says {expected:?}, the kernel {found:?}, of {frame:02x?}"
            ));
            if differences.len() == SHOWN {
                break;
            }
        }
        *kinds.entry((found.policy, found.reason.name())).or_default() += 1;
        if told.elapsed() >= PERIOD {
            told = Instant::now();
            let done = number + 1;
            let rate = done as f64 / started.elapsed().as_secs_f64();
            progress(&format!(
                "{done} of {packets} packets, {rate:.0}/s, {} differ",
                differences.len()
            ));
        }
    }
    if !differences.is_empty() {
        bail!("the parsers differ:\n{}", differences.join("\n"));
    }
    Ok(Outcome {
        packets,
        took: started.elapsed(),
        kinds,
    })
}

struct Bench {
    offline: Offline,
    /// The policies' numbers.
    all: u32,
    ports: u32,
}

impl Bench {
    fn new() -> Result<Self> {
        let config = Config {
            xdp: XdpChoice::Auto,
            management: Vec::new(),
            sketch_bytes: 1 << 16,
            max_flows: 1,
        };
        let mut offline = Offline::with_events(&config, EventRate::All)?;
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("policies.yaml");
        fs::write(&file, POLICIES)?;
        let loaded = enforcer_policy::load(&[file])?;
        offline.apply(&Arc::new(loaded.set), INTERFACE, OffsetDateTime::UNIX_EPOCH, 1)?;
        offline.set_time(1)?;
        let number = |name: &'static str| {
            let mut numbered = offline.store.numbered();
            let found = numbered.find(|(each, _)| each.as_str() == name);
            found.map(|(_, number)| number).context(name)
        };
        let (all, ports) = (number(ALL)?, number(PORTS)?);
        Ok(Self { offline, all, ports })
    }

    fn named(&self, number: u32) -> Result<&'static str> {
        match number {
            NO_POLICY => Ok("-"),
            number if number == self.all => Ok(ALL),
            number if number == self.ports => Ok(PORTS),
            number => bail!("a packet was counted to policy {number}, which is none"),
        }
    }

    fn expected(&self, frame: &[u8]) -> Opinion {
        let passes = |reason| Opinion {
            policy: "-",
            reason,
            verdict: Verdict::Pass,
            packet: None,
        };
        let drops = |policy, reason, packet| Opinion {
            policy,
            reason,
            verdict: Verdict::Drop,
            packet,
        };
        match read(frame) {
            Reading::Arp => passes(Reason::Lifeline),
            Reading::Other => passes(Reason::NotIp),
            Reading::Opaque => passes(Reason::Opaque),
            Reading::Refused(reason) => drops(ALL, reason, None),
            Reading::Packet(packet) if packet.neighbour_discovery => passes(Reason::Lifeline),
            Reading::Packet(packet) => {
                let service = (packet.protocol, packet.ports.1);
                let policy = if SERVICES.contains(&service) { PORTS } else { ALL };
                drops(policy, Reason::Denied, Some(packet))
            }
        }
    }

    fn found(&mut self, frame: &[u8]) -> Result<Opinion> {
        let decision = self.offline.decide(Direction::Ingress, frame)?;
        let event = self.offline.events.next_event();
        if self.offline.events.next_event().is_some() {
            bail!("one packet has two events: {frame:02x?}");
        }
        let packet = match event {
            None if decision.verdict == Verdict::Pass => None,
            None => bail!("a packet was dropped and not told of: {frame:02x?}"),
            Some(event) => told(&decision, &event, frame)?,
        };
        Ok(Opinion {
            policy: self.named(decision.policy)?,
            reason: decision.reason,
            verdict: decision.verdict,
            packet,
        })
    }
}

/// What an event says of the packet, in the reference's words.
fn told(decision: &Decision, event: &Event, frame: &[u8]) -> Result<Option<Packet>> {
    let same = (event.policy, event.reason, event.verdict)
        == (decision.policy, decision.reason, decision.verdict)
        && event.bytes as usize == frame.len()
        && event.skipped == 0;
    if !same {
        bail!("{event:?} is not of {decision:?}: {frame:02x?}");
    }
    Ok(event.packet.map(|seen| Packet {
        source: seen.source,
        destination: seen.destination,
        protocol: seen.protocol,
        ports: (seen.source_port, seen.destination_port),
        later_fragment: seen.later_fragment,
        // Of a datagram, whether its flow is new is no matter of parsing.
        opens_connection: !seen.later_fragment
            && (seen.protocol == 17 || (seen.protocol == 6 && seen.detail & 0x12 == 0x02)),
        neighbour_discovery: false,
    }))
}
