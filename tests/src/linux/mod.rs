//! The programs against Linux itself: random packets go through the stack twice, once with the programs in the way
//! and once without. What a socket gets although a list denies it is a way past the filter; what it gets only without
//! the programs, and is plain, has been lost by them.
//!
//! The case that a packet is of is told by its source address, so that packets that are cut off or changed are told
//! apart too.

pub mod addresses;
mod generate;
mod lane;
pub mod layers;
mod listeners;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use enforcer::{
    kernel::{Config, DeniedBy, Kernel, Staying, XdpChoice},
    policy::{self, model::Action},
};

use self::{
    addresses::{GUARDED_TCP, GUARDED_UDP, Standing},
    generate::{Case, Generator},
    lane::{DEVICE, Lane},
    listeners::{Seen, Socket},
};
use crate::{
    netns::Namespace,
    reference::{Reading, read},
};

/// Frames of a batch, at least: a veth's ring takes 256.
const BATCH: usize = 128;
/// What is shown before a run is given up.
const SHOWN: usize = 5;
/// How often a packet that did not arrive is sent once more, by itself: a ring may have been full.
const TRIES: usize = 5;
/// How often a shorter packet is tried that gets through too.
const ATTEMPTS: usize = 200;
const PERIOD: Duration = Duration::from_secs(10);
const FOR_LONG: Duration = Duration::from_secs(24 * 3600);

/// Where the programs stand in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// XDP in the driver.
    Native,
    /// XDP in the stack.
    Generic,
    /// What the node itself sends.
    Egress,
    /// What a pod at the other end of an interface sends.
    Pod,
    /// XDP on a device without an Ethernet header.
    Tun,
}

impl Way {
    /// All.
    pub const ALL: [Self; 5] = [Self::Native, Self::Generic, Self::Egress, Self::Pod, Self::Tun];

    /// Whether policies go by destinations.
    #[must_use]
    pub const fn is_egress(self) -> bool {
        matches!(self, Self::Egress | Self::Pod)
    }

    /// Whether frames have an Ethernet header.
    #[must_use]
    pub const fn has_ethernet(self) -> bool {
        !matches!(self, Self::Tun)
    }
}

/// What became of the cases of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Cases that a policy denies.
    pub denied: u64,
    /// Those of them that the stack would have delivered.
    pub stopped: u64,
    /// Cases that no policy denies.
    pub free: u64,
    /// Those of them that the stack delivers by itself.
    pub deliverable: u64,
    /// Those of the latter that it delivers with the programs in the way.
    pub delivered: u64,
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    pub way: Way,
    pub packets: u64,
    pub took: Duration,
    /// The receivers had devices for VLANs.
    pub vlans: bool,
    pub all: Tally,
    /// By what is special about the cases.
    pub traits: BTreeMap<String, Tally>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        writeln!(
            f,
            "{:?}: {} packets in {seconds:.1} s, {:.0}/s, {} devices for VLANs",
            self.way,
            self.packets,
            self.packets as f64 / seconds,
            if self.vlans { "with" } else { "without" }
        )?;
        writeln!(
            f,
            "  {:15} {:>9} {:>11} {:>9} {:>11} {:>9}",
            "", "denied", "deliverable", "free", "deliverable", "delivered"
        )?;
        let all = ("all".to_owned(), self.all);
        for (name, tally) in std::iter::once((&all.0, &all.1)).chain(&self.traits) {
            writeln!(
                f,
                "  {name:15} {:>9} {:>11} {:>9} {:>11} {:>9}",
                tally.denied, tally.stopped, tally.free, tally.deliverable, tally.delivered
            )?;
        }
        Ok(())
    }
}

/// Sends `packets` frames of `seed` at least.
///
/// # Errors
/// A packet was delivered although it is denied, a plain one was lost, or the lab could not be built.
pub fn run(way: Way, packets: u64, seed: u64, progress: &mut dyn FnMut(&str)) -> Result<Outcome> {
    let mut bench = Bench::new(way)?;
    let mut generator = Generator::new(seed, way);
    let mut outcome = Outcome {
        way,
        packets: 0,
        took: Duration::ZERO,
        vlans: bench.guarded.vlans,
        all: Tally::default(),
        traits: BTreeMap::new(),
    };
    let mut complaints = Vec::new();
    let started = Instant::now();
    let mut told = started;
    while outcome.packets < packets && complaints.len() < SHOWN {
        let mut cases: Vec<Case> = Vec::new();
        let mut frames = 0;
        while frames < BATCH {
            let case = generator.case(cases.len());
            frames += case.frames.len();
            cases.push(case);
        }
        outcome.packets += frames as u64;
        bench.batch(&cases, &mut outcome, &mut complaints)?;
        if told.elapsed() >= PERIOD {
            told = Instant::now();
            let rate = outcome.packets as f64 / started.elapsed().as_secs_f64();
            progress(&format!(
                "{way:?}: {} of {packets} packets, {rate:.0}/s, {} complaints",
                outcome.packets,
                complaints.len()
            ));
        }
    }
    outcome.took = started.elapsed();
    if !complaints.is_empty() {
        bail!(
            "{way:?}, seed {seed}, after {} packets:\n{}",
            outcome.packets,
            complaints.join("\n")
        );
    }
    Ok(outcome)
}

struct Bench {
    way: Way,
    /// With the programs in the way.
    guarded: Lane,
    plain: Lane,
    _kernel: Kernel,
}

impl Bench {
    fn new(way: Way) -> Result<Self> {
        let (guarded, plain) = (Lane::build(way)?, Lane::build(way)?);
        let kernel = guard(guarded.judged(way), way)?;
        Ok(Self {
            way,
            guarded,
            plain,
            _kernel: kernel,
        })
    }

    fn batch(&mut self, cases: &[Case], outcome: &mut Outcome, complaints: &mut Vec<String>) -> Result<()> {
        let frames = || cases.iter().flat_map(|case| &case.frames);
        let guarded = self.guarded.deliver(frames())?;
        let plain = self.plain.deliver(frames())?;
        let way = self.way;
        let mut wrong = BTreeSet::new();
        for seen in guarded.iter().filter(|seen| is_denied(way, seen)) {
            if let Some((_, at)) = Standing::of_source(seen.source)
                && wrong.insert(at)
                && complaints.len() < SHOWN
            {
                complaints.push(self.explained(cases.get(at), seen)?);
            }
        }
        for seen in &plain {
            let case = Standing::of_source(seen.source).and_then(|(_, at)| cases.get(at));
            let Some(case) = case.filter(|case| misread(case, seen).is_some()) else {
                continue;
            };
            // A changed source address may be that of another case.
            let alone = self.plain.deliver(case.frames.iter())?;
            if complaints.len() < SHOWN {
                complaints.extend(alone.iter().find_map(|seen| misread(case, seen)));
            }
        }
        let by_case = |seen: &[Seen]| -> BTreeSet<usize> {
            let cases = seen.iter().filter_map(|seen| Standing::of_source(seen.source));
            cases.map(|(_, at)| at).collect()
        };
        // What the programs would have stopped is told by the same rule.
        let stopped: BTreeSet<usize> = by_case(
            &plain
                .iter()
                .copied()
                .filter(|seen| is_denied(self.way, seen))
                .collect::<Vec<_>>(),
        );
        let (guarded, plain) = (by_case(&guarded), by_case(&plain));
        for (at, case) in cases.iter().enumerate() {
            let by_itself = plain.contains(&at);
            let free =
                !stopped.contains(&at) && case.source == Standing::Free && case.destination == Standing::Free;
            if case.is_plain()
                && by_itself
                && !stopped.contains(&at)
                && !guarded.contains(&at)
                && self.is_lost(case)?
            {
                complaints.push(format!("a plain packet does not arrive: {}", shown(case)));
            }
            outcome.count(case, |tally| {
                if free {
                    tally.free += 1;
                    tally.deliverable += u64::from(by_itself);
                    tally.delivered += u64::from(by_itself && guarded.contains(&at));
                } else {
                    tally.denied += 1;
                    tally.stopped += u64::from(stopped.contains(&at));
                }
            });
        }
        Ok(())
    }

    /// Whether a case does not arrive, however often it is sent.
    fn is_lost(&mut self, case: &Case) -> Result<bool> {
        for _ in 0..TRIES {
            if !self.guarded.deliver(case.frames.iter())?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What to say of a packet that arrived although it is denied.
    fn explained(&mut self, case: Option<&Case>, seen: &Seen) -> Result<String> {
        let Some(case) = case else {
            return Ok(format!(
                "delivered although denied, of no case of its batch: {seen:?}"
            ));
        };
        if !self.gets_through(&case.frames)? {
            return Ok(format!(
                "delivered although denied, but not when it is sent by itself: {seen:?}; {}",
                shown(case)
            ));
        }
        let frames = self.shrunk(case.frames.clone())?;
        Ok(format!(
            "delivered although denied: {seen:?}; {}; as short as it can be:\n    {}",
            shown(case),
            hexadecimal(&frames)
        ))
    }

    fn gets_through(&mut self, frames: &[Vec<u8>]) -> Result<bool> {
        let seen = self.guarded.deliver(frames.iter())?;
        Ok(seen.iter().any(|seen| is_denied(self.way, seen)))
    }

    /// Fewer frames, fewer tags and fewer bytes that still get through.
    fn shrunk(&mut self, mut frames: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        let mut attempts = 0;
        loop {
            let mut smaller: Vec<Vec<Vec<u8>>> = Vec::new();
            for at in 0..frames.len() {
                if frames.len() > 1 {
                    let mut fewer = frames.clone();
                    fewer.remove(at);
                    smaller.push(fewer);
                }
                let frame = &frames[at];
                let mut with = |frame: Vec<u8>| {
                    let mut changed = frames.clone();
                    changed[at] = frame;
                    smaller.push(changed);
                };
                if frame.len() > 22 {
                    with([&frame[..12], &frame[16..]].concat());
                }
                for cut in [64, 16, 4, 1] {
                    if frame.len() > 14 + cut {
                        with(frame[..frame.len() - cut].to_vec());
                    }
                }
            }
            let mut found = None;
            for candidate in smaller {
                attempts += 1;
                if attempts > ATTEMPTS {
                    return Ok(frames);
                }
                if self.gets_through(&candidate)? {
                    found = Some(candidate);
                    break;
                }
            }
            match found {
                Some(candidate) => frames = candidate,
                None => return Ok(frames),
            }
        }
    }
}

impl Outcome {
    fn count(&mut self, case: &Case, mut change: impl FnMut(&mut Tally)) {
        change(&mut self.all);
        for special in &case.traits {
            change(self.traits.entry(format!("{special:?}")).or_default());
        }
    }

    /// How many packets of a kind the stack would have delivered, and the programs have not.
    #[must_use]
    pub fn stopped(&self, special: &str) -> u64 {
        self.traits.get(special).map_or(0, |tally| tally.stopped)
    }
}

/// Whether policies deny what a socket has got.
fn is_denied(way: Way, seen: &Seen) -> bool {
    let standing = if way.is_egress() {
        Standing::of_destination(seen.destination)
    } else {
        Standing::of_source(seen.source).map(|(standing, _)| standing)
    };
    match standing {
        Some(Standing::Listed) => way.is_egress() || !seen.neighbour_discovery,
        Some(Standing::Denied) => !way.is_egress() && !seen.neighbour_discovery,
        Some(Standing::ListedAtPorts) => seen.at_guarded_port,
        Some(Standing::Free) | None => false,
    }
}

/// What to say if the reference reads a frame otherwise than the stack has.
fn misread(case: &Case, seen: &Seen) -> Option<String> {
    // The stack has read fragments as a whole, which no reader of frames does; and extension headers one by one.
    let [frame] = &case.frames[..] else { return None };
    let agrees = match read(frame) {
        Reading::Packet(packet) => {
            let at = match seen.socket {
                Socket::Udp(port) => (17, port) == (packet.protocol, packet.ports.1),
                Socket::Raw(_) => true,
            };
            at && (seen.source, seen.destination) == (packet.source, packet.destination)
        }
        Reading::Arp | Reading::Other => false,
        // Whatever is wrong with it, it is judged.
        _ => true,
    };
    (!agrees).then(|| {
        format!(
            "the reference reads {:?} where the stack has delivered {seen:?}: {}",
            read(frame),
            shown(case)
        )
    })
}

fn shown(case: &Case) -> String {
    let traits: Vec<String> = case.traits.iter().map(|special| format!("{special:?}")).collect();
    format!(
        "{:?} to {:?}, {}:\n    {}",
        case.source,
        case.destination,
        traits.join("+"),
        hexadecimal(&case.frames)
    )
}

fn hexadecimal(frames: &[Vec<u8>]) -> String {
    let text = |frame: &Vec<u8>| frame.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    frames.iter().map(text).collect::<Vec<_>>().join("\n    ")
}

fn documents(way: Way) -> String {
    let policy = |name: &str, spec: &str| {
        format!(
            "---\napiVersion: enforcer.dev/v1\nkind: PacketPolicy\nmetadata: {{name: {name}}}\nspec: {{mode: enforce, interfaces: [{DEVICE}], {spec}}}\n"
        )
    };
    if way.is_egress() {
        let side = if way == Way::Pod { "pod" } else { "node" };
        let to = |standing: Standing, rest: &str| {
            let [v4, v6] = [true, false].map(|ipv4| standing.destination(ipv4));
            format!("{{cidr: {v4}/32{rest}}}, {{cidr: '{v6}/128'{rest}}}")
        };
        let ports = format!(", ports: [udp/{GUARDED_UDP}, tcp/{GUARDED_TCP}]");
        return policy(
            "all",
            &format!(
                "egress: {{of: {side}, deny: [{}, {}]}}",
                to(Standing::Listed, ""),
                to(Standing::ListedAtPorts, &ports)
            ),
        );
    }
    let list = |standing: Standing| {
        let [v4, v6] = standing.sources();
        format!("deny: [{v4}, '{v6}']")
    };
    // Whoever is denied at ports alone has been denied at none by the policy that all others are under.
    let both = |one: Standing, other: Standing| {
        let ([v4, v6], [w4, w6]) = (one.sources(), other.sources());
        format!("deny: [{v4}, '{v6}', {w4}, '{w6}']")
    };
    policy("all", &list(Standing::Listed))
        + &policy(
            "ports",
            &format!(
                "ports: [udp/{GUARDED_UDP}, tcp/{GUARDED_TCP}], {}",
                both(Standing::Listed, Standing::ListedAtPorts)
            ),
        )
}

/// Puts the programs on the interface of `namespace`.
fn guard(namespace: &Namespace, way: Way) -> Result<Kernel> {
    let config = Config {
        xdp: match way {
            Way::Native => XdpChoice::Native,
            Way::Generic | Way::Tun => XdpChoice::Generic,
            Way::Egress | Way::Pod => XdpChoice::Auto,
        },
        management: Vec::new(),
        sketch_bytes: 1 << 16,
        max_flows: 64,
    };
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("policies.yaml");
    fs::write(&file, documents(way))?;
    let loaded = policy::load(&[file])?;
    namespace.run(move || {
        let mut kernel = Kernel::load(&config, &Staying::NOT)?;
        kernel
            .generations
            .apply(&Arc::new(loaded.set), &kernel.counters)?;
        let attached = kernel.generations.attached();
        ensure!(
            attached.iter().any(|attached| attached.interface == DEVICE),
            "the programs are not on {DEVICE}: {:?}",
            kernel.generations.failures()
        );
        for prefix in Standing::Denied.sources() {
            let prefix = prefix.parse().context("a prefix of the lab")?;
            kernel
                .denials
                .deny(prefix, DeniedBy::Operator, "test", FOR_LONG, Action::Drop)?;
        }
        Ok(kernel)
    })
}
