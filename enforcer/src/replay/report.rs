//! What a replay came to.

use std::{collections::BTreeMap, net::IpAddr, path::Path, time::Duration};

use enforcer_common::{
    layout::{Counter, counted},
    verdict::Verdict,
};
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    Tally, shown,
    talkers::{CAPACITY, Talkers},
};
use enforcer_dataplane::Store;
use enforcer_model::Name;

/// Sources that a report names.
const NAMED: usize = 20;

/// The result, as it is printed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub file: String,
    /// Where the packets are taken to have arrived.
    pub interface: String,
    /// `false`: the file ends in the middle of a record.
    pub complete: bool,
    /// Handed to the programs.
    pub packets: u64,
    pub bytes: u64,
    /// Of these, passed.
    pub passed: u64,
    pub dropped: u64,
    /// Passed, and would have been dropped without `shadow`.
    pub shadow: u64,
    /// Of the first packet recorded, RFC 3339.
    pub first: Option<String>,
    pub last: Option<String>,
    /// From the first to the last.
    pub recorded_seconds: f64,
    /// Mean rate of the recording.
    pub recorded_packets_per_second: Option<f64>,
    /// How long the replay took.
    pub replayed_seconds: f64,
    pub replayed_packets_per_second: Option<f64>,
    pub skipped: Skipped,
    /// By direction, policy, reason, limit and verdict, most packets first.
    pub verdicts: Vec<VerdictReport>,
    /// Sources by packets, at most 20.
    pub top_sources: Vec<TalkerReport>,
    /// Sources by packets that are dropped, or would be without `shadow`, at most 20.
    pub top_dropped: Vec<TalkerReport>,
    /// Sources counted at one time, for each of the two.
    pub top_capacity: usize,
}

/// Packets that are not replayed just as they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Skipped {
    /// Not replayed: nothing is there behind the link header, or, of what leaves, no whole IP header.
    pub too_short: u64,
    /// Kept in part by the recorder; the rest is taken for zeros.
    pub cut_by_recorder: u64,
    /// Longer than a test run takes (offloads join packets before they are recorded): replayed, and
    /// charged, as one packet of [`super::LONGEST`] bytes.
    pub shortened: u64,
    /// Earlier than one before it: replayed at that one's time, for the kernel's clock never goes back.
    pub out_of_order: u64,
    /// Recorded without a time: replayed at that of the packet before.
    pub without_time: u64,
}

/// Packets of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerdictReport {
    pub direction: String,
    /// `None`: no policy is about them.
    pub policy: Option<String>,
    pub reason: String,
    /// The limit that they are over.
    pub limit: Option<String>,
    pub verdict: String,
    pub packets: u64,
    pub bytes: u64,
}

/// A source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TalkerReport {
    pub source: IpAddr,
    /// At most.
    pub packets: u64,
    /// By how much that may be too high.
    pub error: u64,
}

/// What is not counted by packet.
pub struct Circumstances<'a> {
    pub file: &'a Path,
    pub interface: String,
    pub complete: bool,
    pub took: Duration,
}

/// Sums a run up.
pub fn of(tally: &Tally, store: &Store, about: &Circumstances<'_>) -> Report {
    let sum = |wanted: &dyn Fn(Verdict) -> bool| {
        let places = (0..).zip(&tally.counters);
        places
            .filter(|(place, _)| counted(*place).is_some_and(|(_, _, _, verdict)| wanted(verdict)))
            .fold(Counter::default(), |sum, (_, counter)| Counter {
                packets: sum.packets + counter.packets,
                bytes: sum.bytes + counter.bytes,
            })
    };
    let all = sum(&|_| true);
    let recorded = tally
        .last_ns
        .zip(tally.first_ns)
        .map_or(0, |(last, first)| last - first) as f64
        / 1e9;
    let rate = |seconds: f64| (seconds > 0.0).then(|| all.packets as f64 / seconds);
    Report {
        file: shown(about.file),
        interface: about.interface.clone(),
        complete: about.complete,
        packets: all.packets,
        bytes: all.bytes,
        passed: sum(&|verdict| verdict == Verdict::Pass).packets,
        dropped: sum(&|verdict| matches!(verdict, Verdict::Drop | Verdict::Reset)).packets,
        shadow: sum(&|verdict| verdict == Verdict::Shadow).packets,
        first: tally.first_ns.and_then(calendar),
        last: tally.last_ns.and_then(calendar),
        recorded_seconds: recorded,
        recorded_packets_per_second: rate(recorded),
        replayed_seconds: about.took.as_secs_f64(),
        replayed_packets_per_second: rate(about.took.as_secs_f64()),
        skipped: tally.skipped,
        verdicts: verdicts(&tally.counters, store),
        top_sources: talkers(&tally.senders),
        top_dropped: talkers(&tally.dropped),
        top_capacity: CAPACITY,
    }
}

fn calendar(time_ns: u64) -> Option<String> {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(time_ns)).ok()?;
    time.format(&Rfc3339).ok()
}

fn verdicts(counters: &[Counter], store: &Store) -> Vec<VerdictReport> {
    let names: BTreeMap<u32, Name> = store.numbered().map(|(name, number)| (number, name)).collect();
    let mut rows: Vec<VerdictReport> = (0..)
        .zip(counters)
        .filter(|(_, counter)| counter.packets > 0)
        .filter_map(|(place, counter)| {
            let (direction, number, reason, verdict) = counted(place)?;
            let policy = names.get(&number);
            let limit = policy
                .zip(reason.limit_place())
                .and_then(|(policy, (list, index))| {
                    let set = store.set();
                    let document = set.packet_policies.iter().find(|each| each.name == *policy)?;
                    Some(document.limit_names()[list].get(index)?.to_string())
                });
            Some(VerdictReport {
                direction: direction.name().to_owned(),
                policy: policy.map(ToString::to_string),
                reason: reason.name().to_owned(),
                limit,
                verdict: verdict.name().to_owned(),
                packets: counter.packets,
                bytes: counter.bytes,
            })
        })
        .collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.packets));
    rows
}

fn talkers(talkers: &Talkers) -> Vec<TalkerReport> {
    let top = talkers.top(NAMED).into_iter();
    top.map(|talker| TalkerReport {
        source: talker.source,
        packets: talker.packets,
        error: talker.error,
    })
    .collect()
}
