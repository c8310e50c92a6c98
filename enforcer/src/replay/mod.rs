//! Replay: recorded packets through the programs that enforce, at the times at which they were recorded.
//!
//! Nothing is attached anywhere. The programs are loaded a second time with a clock that replay sets,
//! and each packet is handed to them by `BPF_PROG_TEST_RUN`; what they return says what became of it.
//!
//! Memory is bounded: see `recording` for what is read, `talkers` for who is remembered, and one
//! counter for each verdict that there can be.

mod frame;
mod link;
mod recording;
mod report;
mod talkers;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use enforcer_common::{
    layout::{COUNTERS, Counter},
    verdict::{Direction, Verdict},
};
use ipnet::IpNet;
use time::OffsetDateTime;

pub use recording::RecordingError;
pub use report::{Report, Skipped, TalkerReport, VerdictReport};
pub use talkers::CAPACITY;

use self::{
    link::ETHERNET,
    recording::{Record, Recording},
    talkers::Talkers,
};
use crate::config::SketchMemory;
use enforcer_dataplane::{Config, KernelError, Offline, XdpChoice};
use enforcer_model::PolicySet;

/// The longest frame that a test run takes on every kernel with pages of 4 KiB: a page, less what the
/// kernel keeps free in front (256 bytes) and its own at the end (320).
pub const LONGEST: usize = 3_500;

/// What the first packet is told as the time: a whole number of hours, so that fixed windows up to an
/// hour begin with the recording.
const BEGIN_NS: u64 = 100 * 3_600 * 1_000_000_000;

/// Verified connections are none.
const NO_FLOWS: u32 = 1;

/// What is to be replayed, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The recording.
    pub file: PathBuf,
    /// The interface that it is taken to come from. `None`: the first that a policy is about.
    pub interface: Option<String>,
    /// Packets from there are taken to leave, where the recording does not say which way they went.
    pub local: Vec<IpNet>,
    /// Sources that are never dropped.
    pub management: Vec<IpNet>,
    /// As the agent's `kernel.sketchMemory`.
    pub sketch: SketchMemory,
}

/// Why nothing is replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("the policies have no PacketPolicy, so there is nothing to replay against")]
    NoPolicy,
    #[error("no packet policy is about interface {0}; name one that is with --interface")]
    Interface(String),
    #[error("{} {source}", file.display())]
    Recording { file: PathBuf, source: RecordingError },
    #[error("{0}")]
    Kernel(#[from] KernelError),
    #[error("{0}")]
    Record(#[from] RecordingError),
}

/// Replays a recording.
///
/// # Errors
/// The recording cannot be read to its end, or the kernel refuses.
pub fn replay(set: &Arc<PolicySet>, options: &Options) -> Result<Report, ReplayError> {
    let interface = interface(set, options.interface.as_deref())?;
    let named = |source| ReplayError::Recording {
        file: options.file.clone(),
        source,
    };
    let recording = Recording::open(&options.file).map_err(named)?;
    let mut offline = Offline::load(&Config {
        xdp: XdpChoice::Auto,
        management: options.management.clone(),
        sketch_bytes: u64::from(options.sketch.bytes()),
        max_flows: NO_FLOWS,
    })?;
    let mut run = Run {
        set,
        options,
        interface: &interface,
        offline: &mut offline,
        frame: Vec::with_capacity(LONGEST),
        begin: None,
        tally: Tally::default(),
    };
    let started = Instant::now();
    let complete = recording
        .each(|record| run.record(record))
        .map_err(|error| match error {
            ReplayError::Record(source) => named(source),
            error => error,
        })?;
    let tally = std::mem::take(&mut run.tally);
    Ok(report::of(
        &tally,
        &offline.store,
        &report::Circumstances {
            file: &options.file,
            interface,
            complete,
            took: started.elapsed(),
        },
    ))
}

/// The interface that packets are taken to come from.
fn interface(set: &PolicySet, named: Option<&str>) -> Result<String, ReplayError> {
    let mut patterns = set.packet_policies.iter().flat_map(|policy| &policy.interfaces);
    if let Some(name) = named {
        return patterns
            .any(|pattern| pattern.matches(name))
            .then(|| name.to_owned())
            .ok_or_else(|| ReplayError::Interface(name.to_owned()));
    }
    let first = patterns.next().ok_or(ReplayError::NoPolicy)?;
    Ok(match first.exact() {
        Some(name) => name.to_owned(),
        None if first.matches("eth0") => "eth0".to_owned(),
        None => first.as_str().replace('*', "0"),
    })
}

/// What is counted on the way.
struct Tally {
    /// By the place in the kernel's counters.
    counters: Vec<Counter>,
    skipped: Skipped,
    /// In nanoseconds since 1970.
    first_ns: Option<u64>,
    last_ns: Option<u64>,
    /// Who sends.
    senders: Talkers,
    /// Whose packets end, or would but for shadow.
    dropped: Talkers,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            counters: vec![Counter::default(); COUNTERS as usize],
            skipped: Skipped::default(),
            first_ns: None,
            last_ns: None,
            senders: Talkers::default(),
            dropped: Talkers::default(),
        }
    }
}

struct Run<'a> {
    set: &'a Arc<PolicySet>,
    options: &'a Options,
    interface: &'a str,
    offline: &'a mut Offline,
    frame: Vec<u8>,
    /// The first packet's time, in nanoseconds since 1970.
    begin: Option<u64>,
    tally: Tally,
}

impl Run<'_> {
    fn record(&mut self, record: &Record<'_>) -> Result<(), ReplayError> {
        self.tell_time(record.time_ns)?;
        let Some(hint) = record.link.write(record.bytes, &mut self.frame) else {
            self.tally.skipped.too_short += 1;
            return Ok(());
        };
        let length = (record.length - record.link.header()) + ETHERNET;
        if length > self.frame.len() {
            // What is missing is taken for zeros: so lengths hold, and bytes are charged as they were.
            self.tally.skipped.cut_by_recorder += 1;
            self.frame.resize(length.min(LONGEST), 0);
        }
        if length > LONGEST {
            self.tally.skipped.shortened += 1;
            frame::shorten(&mut self.frame, LONGEST);
        }
        let source = frame::source(&self.frame);
        let direction = record
            .direction
            .or(hint)
            .unwrap_or_else(|| self.direction(source));
        if !frame::is_runnable(direction, &self.frame) {
            self.tally.skipped.too_short += 1;
            return Ok(());
        }
        let decision = self.offline.decide(direction, &self.frame)?;
        if let Some(counter) = self.tally.counters.get_mut(decision.place() as usize) {
            counter.packets += 1;
            counter.bytes += self.frame.len() as u64;
        }
        if let Some(source) = source {
            self.tally.senders.count(source);
            if decision.verdict != Verdict::Pass {
                self.tally.dropped.count(source);
            }
        }
        Ok(())
    }

    /// Sets the clock to a record's time, and before the first puts the policies in force.
    fn tell_time(&mut self, time_ns: Option<u64>) -> Result<(), ReplayError> {
        let begin = match self.begin {
            Some(begin) => begin,
            None => {
                let begin = time_ns.unwrap_or(0);
                let wall = OffsetDateTime::from_unix_timestamp_nanos(i128::from(begin))
                    .unwrap_or(OffsetDateTime::UNIX_EPOCH);
                self.offline.apply(self.set, self.interface, wall, BEGIN_NS)?;
                self.offline.set_time(BEGIN_NS)?;
                *self.begin.insert(begin)
            }
        };
        let Some(time_ns) = time_ns else {
            self.tally.skipped.without_time += 1;
            return Ok(());
        };
        if self.tally.last_ns.is_some_and(|last| time_ns < last) {
            self.tally.skipped.out_of_order += 1;
        }
        self.tally.first_ns = Some(self.tally.first_ns.map_or(time_ns, |first| first.min(time_ns)));
        self.tally.last_ns = Some(self.tally.last_ns.map_or(time_ns, |last| last.max(time_ns)));
        // As the kernel's own, the clock never goes back.
        let latest = self.tally.last_ns.unwrap_or(time_ns);
        let now_ns = BEGIN_NS.saturating_add(latest.saturating_sub(begin));
        Ok(self.offline.set_time(now_ns)?)
    }

    fn direction(&self, source: Option<IpAddr>) -> Direction {
        let local = |source: IpAddr| self.options.local.iter().any(|prefix| prefix.contains(&source));
        if source.is_some_and(local) {
            Direction::Egress
        } else {
            Direction::Ingress
        }
    }
}

/// A file's name for messages.
fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use enforcer_policy;

    fn set(interfaces: &str) -> PolicySet {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.yaml");
        let text = format!(
            "apiVersion: enforcer.dev/v1\nkind: PacketPolicy\nmetadata: {{name: p}}\nspec: {{interfaces: {interfaces}, deny: [{{cidr: 192.0.2.0/24}}]}}\n"
        );
        std::fs::write(&file, text).unwrap();
        enforcer_policy::load(&[file]).unwrap().set
    }

    #[test]
    fn an_interface_is_found_that_the_policy_is_about() {
        for (interfaces, expected) in [
            ("[lan7, eth0]", "lan7"),
            ("['*']", "eth0"),
            ("['e*']", "eth0"),
            ("['veth*']", "veth0"),
        ] {
            assert_eq!(
                interface(&set(interfaces), None).unwrap(),
                expected,
                "{interfaces}"
            );
        }
        assert_eq!(interface(&set("['veth*']"), Some("veth9")).unwrap(), "veth9");
        assert!(matches!(
            interface(&set("['veth*']"), Some("eth0")),
            Err(ReplayError::Interface(name)) if name == "eth0"
        ));
        assert!(matches!(
            interface(&PolicySet::default(), None),
            Err(ReplayError::NoPolicy)
        ));
    }
}
