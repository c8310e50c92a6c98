//! Samples of what the kernel dropped, or would have but for shadow.

use std::{io, net::IpAddr};

use aya::maps::{MapData, PerCpuArray, RingBuf};
use enforcer_common::{
    layout::{self, EventGate, counted, event_flag},
    verdict::{Direction, Reason, Verdict},
};
use enforcer_sys::bpf;
use tokio::io::unix::AsyncFd;

use super::{KernelError, address::ip};
use enforcer_supervision::sync::system_call;

/// How many packets have an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventRate {
    /// None.
    None,
    /// Every one: for tests.
    All,
    /// At most so many a second on each CPU.
    PerSecond(u32),
}

impl EventRate {
    pub fn spacing_ns(self) -> u64 {
        match self {
            Self::None | Self::PerSecond(0) => u64::MAX,
            Self::All => 0,
            Self::PerSecond(rate) => 1_000_000_000 / u64::from(rate),
        }
    }
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// On the kernel's monotonic clock.
    pub time_ns: u64,
    /// Which way the packet went.
    pub direction: Direction,
    /// The policy's number.
    pub policy: u32,
    /// Why.
    pub reason: Reason,
    /// What.
    pub verdict: Verdict,
    /// The interface's index.
    pub interface: u32,
    /// Of the frame.
    pub bytes: u32,
    /// How many packets on this CPU should have had an event since the last, and had none.
    pub skipped: u64,
    /// `None`: the packet could not be read.
    pub packet: Option<Seen>,
}

/// What the kernel read of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// Zero where the protocol has none.
    pub source_port: u16,
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// TCP's flags, or ICMP's type.
    pub detail: u8,
    /// Part of a fragmented packet.
    pub fragment: bool,
    /// A fragment that is not the first.
    pub later_fragment: bool,
}

/// The ring of events. One reader.
pub struct Events(RingBuf<MapData>);

/// The same, for waiting.
pub struct AwaitedEvents(AsyncFd<RingBuf<MapData>>);

/// What became of those that were not read.
pub struct EventCounts(PerCpuArray<MapData, EventGate>);

impl Events {
    pub fn new(map: RingBuf<MapData>) -> Self {
        Self(map)
    }

    /// For waiting, within a tokio runtime.
    ///
    /// # Errors
    /// The kernel refuses to wait for it.
    pub fn awaited(self) -> io::Result<AwaitedEvents> {
        bpf::readable_ring(self.0).map(AwaitedEvents)
    }

    /// The next that is there.
    pub fn next_event(&mut self) -> Option<Event> {
        next(&mut self.0)
    }
}

impl AwaitedEvents {
    /// Waits until there are some, and adds up to `most` of them to `batch`.
    ///
    /// # Errors
    /// The kernel refuses to wait for them.
    pub async fn take(&mut self, batch: &mut Vec<Event>, most: usize) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable_mut().await?;
            let ring = ready.get_inner_mut();
            batch.extend(std::iter::from_fn(|| next(ring)).take(most));
            if !batch.is_empty() {
                return Ok(());
            }
            ready.clear_ready();
        }
    }
}

fn next(ring: &mut RingBuf<MapData>) -> Option<Event> {
    loop {
        let item = ring.next()?;
        if let Some(event) = read(&item) {
            return Some(event);
        }
    }
}

impl EventCounts {
    pub fn new(map: PerCpuArray<MapData, EventGate>) -> Self {
        Self(map)
    }

    /// How many packets had no event because of the rate, and how many because the ring was full.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn skipped_and_lost(&self) -> Result<(u64, u64), KernelError> {
        system_call("EVENT_GATES");
        let gates = self.0.get(&0, 0).map_err(KernelError::map("EVENT_GATES"))?;
        Ok(gates.iter().fold((0, 0), |(skipped, lost), gate| {
            (skipped + gate.total_skipped, lost + gate.lost)
        }))
    }
}

/// `None`: not what this build's programs write.
fn read(bytes: &[u8]) -> Option<Event> {
    let event: layout::Event = bpf::value(bytes)?;
    let (direction, policy, reason, verdict) = counted(event.place)?;
    let packet = (event.flags & event_flag::READ != 0).then(|| Seen {
        source: ip(event.source),
        destination: ip(event.destination),
        source_port: u16::from_be(event.source_port),
        destination_port: u16::from_be(event.destination_port),
        protocol: event.protocol,
        detail: event.detail,
        fragment: event.flags & event_flag::FRAGMENT != 0,
        later_fragment: event.flags & event_flag::LATER_FRAGMENT != 0,
    });
    Some(Event {
        time_ns: event.time_ns,
        direction,
        policy,
        reason,
        verdict,
        interface: event.interface,
        bytes: event.bytes,
        skipped: event.skipped,
        packet,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_spacing() {
        assert_eq!(EventRate::PerSecond(1_000).spacing_ns(), 1_000_000);
        assert_eq!(EventRate::PerSecond(0).spacing_ns(), u64::MAX);
        assert_eq!(EventRate::All.spacing_ns(), 0);
    }

    #[test]
    fn what_is_no_event_is_passed_over() {
        assert_eq!(read(&[0; size_of::<layout::Event>() - 1]), None);
        assert_eq!(read(&[0xff; size_of::<layout::Event>()]), None);
    }
}
