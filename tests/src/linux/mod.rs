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
mod outcome;
mod policies;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use enforcer_dataplane::Kernel;

pub use self::outcome::Outcome;
use self::{
    addresses::Standing,
    generate::{Case, Generator},
    lane::Lane,
    listeners::{Seen, Socket},
    outcome::Tally,
    policies::{guard, is_denied},
};
use crate::reference::{Reading, read};

/// Frames of a batch, at least: a veth's ring takes 256.
const BATCH: usize = 128;
/// What is shown before a run is given up.
const SHOWN: usize = 5;
/// How often a packet that did not arrive is sent once more, by itself: a ring may have been full.
const TRIES: usize = 5;
/// How often a shorter packet is tried that gets through too.
const ATTEMPTS: usize = 200;
const PERIOD: Duration = Duration::from_secs(10);

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
