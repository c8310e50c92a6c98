//! Events for people: the kernel's samples with names and the calendar's time, the latest kept, and all
//! handed to whoever listens.
//!
//! Bounds: [`RECENT`] are kept; at most [`READERS`] listen at one time, and each may fall [`RECENT`]
//! behind before it loses the oldest, which it is told.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::broadcast;

use super::state::Shared;
use enforcer_dataplane::{Event, Events, View};
use enforcer_model::Name;
use enforcer_supervision::sync::{Guard, Rank, Ranked};
use enforcer_sys::{clock::monotonic_ns, interfaces};

/// Events that are kept.
pub const RECENT: usize = 1_024;
/// Who listens at one time.
pub const READERS: usize = 16;
/// Events between two looks at the names in force.
const BATCH: usize = 256;

/// A packet that was dropped, or would have been but for shadow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventView {
    /// RFC 3339.
    pub time: String,
    pub verdict: String,
    pub reason: String,
    /// `None`: no policy is about it.
    pub policy: Option<String>,
    /// The limit that it is over.
    pub limit: Option<String>,
    pub direction: String,
    pub interface: String,
    /// `None` where the packet could not be read.
    pub source: Option<IpAddr>,
    pub source_port: Option<u16>,
    pub destination: Option<IpAddr>,
    pub destination_port: Option<u16>,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// Bytes of the frame.
    pub bytes: u32,
    /// Packets on the same CPU that have been dropped since the event before and have none.
    pub skipped: u64,
}

/// A line of the stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EventLine {
    Event(Box<EventView>),
    /// The reader was too slow for that many.
    Lost(u64),
}

/// The latest events.
pub struct Journal {
    recent: Ranked<VecDeque<Arc<EventView>>>,
    readers: broadcast::Sender<Arc<EventView>>,
}

/// One who listens.
pub type Reader = broadcast::Receiver<Arc<EventView>>;

impl Default for Journal {
    fn default() -> Self {
        Self {
            recent: Ranked::new(Rank::Journal, VecDeque::new()),
            readers: broadcast::Sender::new(RECENT),
        }
    }
}

impl Journal {
    fn add(&self, event: EventView) {
        let event = Arc::new(event);
        let mut recent = self.recent();
        if recent.len() == RECENT {
            recent.pop_front();
        }
        recent.push_back(Arc::clone(&event));
        // Nobody may be listening. Sent under the lock, so that no reader misses one or has one twice.
        drop(self.readers.send(event));
    }

    /// What is kept, and all that follows. `None`: enough are listening.
    #[must_use]
    pub fn listen(&self) -> Option<(Vec<Arc<EventView>>, Reader)> {
        let recent = self.recent();
        if self.readers.receiver_count() >= READERS {
            return None;
        }
        Some((recent.iter().cloned().collect(), self.readers.subscribe()))
    }

    /// The latest of a source.
    #[must_use]
    pub fn last_of(&self, source: IpAddr) -> Option<EventView> {
        let recent = self.recent();
        let found = recent.iter().rev().find(|event| event.source == Some(source));
        found.map(|event| EventView::clone(event))
    }

    fn recent(&self) -> Guard<'_, VecDeque<Arc<EventView>>> {
        self.recent.lock()
    }
}

/// Takes in what the kernel tells, until the task is ended.
///
/// # Errors
/// The ring cannot be waited for.
pub async fn take_in(events: Events, shared: Arc<Shared>) -> io::Result<()> {
    let mut ring = events.awaited()?;
    let mut names = Names::default();
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        ring.take(&mut batch, BATCH).await?;
        if shared.kernel.is_some() {
            names.refresh(&shared.standing().kernel);
            if names.lack_an_interface(&batch) {
                names.interfaces = tokio::task::spawn_blocking(interfaces::names)
                    .await
                    .unwrap_or_default();
            }
            shared.metrics.events.inc_by(batch.len() as u64);
            let now = (OffsetDateTime::now_utc(), monotonic_ns());
            for event in batch.drain(..) {
                shared.journal.add(names.view(&event, now));
            }
        }
        batch.clear();
        tokio::task::yield_now().await;
    }
}

/// What numbers mean.
#[derive(Default)]
struct Names {
    /// By number: the policy, and its limits as `PacketPolicy::limit_names` has them.
    policies: BTreeMap<u32, (String, [Vec<String>; 2])>,
    interfaces: BTreeMap<u32, String>,
}

impl Names {
    fn refresh(&mut self, view: &View) {
        let limits = |name: &Name| {
            let mut policies = view.set.packet_policies.iter();
            let policy = policies.find(|policy| policy.name == *name);
            let text = |names: Vec<&Name>| names.into_iter().map(Name::to_string).collect();
            policy.map(|policy| policy.limit_names().map(text))
        };
        let policies = view.policies.iter().map(|(name, running)| {
            let names = (name.to_string(), limits(name).unwrap_or_default());
            (running.number, names)
        });
        self.policies = policies.collect();
    }

    fn lack_an_interface(&self, batch: &[Event]) -> bool {
        let mut events = batch.iter();
        events.any(|event| !self.interfaces.contains_key(&event.interface))
    }

    fn view(&self, event: &Event, (now, now_ns): (OffsetDateTime, u64)) -> EventView {
        let time = now - Duration::from_nanos(now_ns.saturating_sub(event.time_ns));
        let policy = self.policies.get(&event.policy);
        let limit = policy
            .zip(event.reason.limit_place())
            .and_then(|((_, limits), (list, index))| limits[list].get(index).cloned());
        let port = |port| (port != 0).then_some(port);
        let seen = event.packet;
        EventView {
            time: time.format(&Rfc3339).unwrap_or_default(),
            verdict: event.verdict.name().to_owned(),
            reason: event.reason.name().to_owned(),
            policy: policy.map(|(name, _)| name.clone()),
            limit,
            direction: event.direction.name().to_owned(),
            interface: self
                .interfaces
                .get(&event.interface)
                .cloned()
                .unwrap_or_else(|| event.interface.to_string()),
            source: seen.map(|seen| seen.source),
            source_port: seen.and_then(|seen| port(seen.source_port)),
            destination: seen.map(|seen| seen.destination),
            destination_port: seen.and_then(|seen| port(seen.destination_port)),
            protocol: seen.map(|seen| seen.protocol),
            bytes: event.bytes,
            skipped: event.skipped,
        }
    }
}

#[cfg(test)]
mod tests {
    use enforcer_common::verdict::{Direction, Reason, Verdict};

    use super::*;
    use enforcer_dataplane::Seen;

    fn event(number: u16) -> EventView {
        let names = Names {
            policies: [(3, ("edge".to_owned(), [vec!["each".to_owned()], vec![]]))].into(),
            interfaces: [(2, "eth0".to_owned())].into(),
        };
        let event = Event {
            time_ns: 5_000_000_000,
            direction: Direction::Ingress,
            policy: 3,
            reason: Reason::Limit0,
            verdict: Verdict::Drop,
            interface: 2,
            bytes: 60,
            skipped: 7,
            packet: Some(Seen {
                source: "192.0.2.7".parse().unwrap(),
                destination: "192.0.2.1".parse().unwrap(),
                source_port: number,
                destination_port: 443,
                protocol: 6,
                detail: 2,
                fragment: false,
                later_fragment: false,
            }),
        };
        let now = OffsetDateTime::from_unix_timestamp(1_700_000_010).unwrap();
        names.view(&event, (now, 15_000_000_000))
    }

    #[test]
    fn numbers_become_names_and_the_calendars_time() {
        let view = event(9);
        assert_eq!(view.time, "2023-11-14T22:13:20Z");
        assert_eq!(
            (view.policy.as_deref(), view.limit.as_deref()),
            (Some("edge"), Some("each"))
        );
        assert_eq!((view.interface.as_str(), view.source_port), ("eth0", Some(9)));
    }

    #[test]
    fn the_latest_are_kept_and_the_slow_are_told_what_they_lose() {
        let journal = Journal::default();
        let (_, mut slow) = journal.listen().unwrap();
        let sent = RECENT as u16 + 10;
        for number in 1..=sent {
            journal.add(event(number));
        }
        let (kept, _reader) = journal.listen().unwrap();
        assert_eq!(kept.len(), RECENT);
        assert_eq!(kept[0].source_port, Some(11));
        assert_eq!(journal.last_of("192.0.2.7".parse().unwrap()), Some(event(sent)));
        assert_eq!(journal.last_of("192.0.2.8".parse().unwrap()), None);
        assert_eq!(
            slow.try_recv().unwrap_err(),
            broadcast::error::TryRecvError::Lagged(10)
        );
        assert_eq!(slow.try_recv().unwrap().source_port, Some(11));
    }

    #[test]
    fn no_more_listen_than_the_bound_says() {
        let journal = Journal::default();
        let readers: Vec<_> = (0..READERS).map(|_| journal.listen().unwrap()).collect();
        assert!(journal.listen().is_none());
        drop(readers);
        assert!(journal.listen().is_some());
    }
}
