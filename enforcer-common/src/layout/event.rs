//! Samples of what is dropped.

use super::Address;

/// Bytes of the ring of events, a power of two of pages: 3,276 events of 72 bytes with 8 of the ring's own.
pub const EVENT_RING_BYTES: u32 = 1 << 18;

/// How much of an idle CPU's rate of events may come at once: that of a tenth of a second.
pub const EVENT_BURST_NS: u64 = 100_000_000;

/// Nanoseconds from one answer to what is dropped (`reset`) to the next on one CPU, in the long run: 1,000 a
/// second.
pub const RESET_SPACING_NS: u64 = 1_000_000;

/// How much of an idle CPU's rate of such answers may come at once: that of a tenth of a second, 100.
pub const RESET_BURST_NS: u64 = 100_000_000;

/// A packet that was dropped, or would have been but for shadow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// On the kernel's monotonic clock.
    pub time_ns: u64,
    /// Packets on this CPU since the last event that should have had one, and had none.
    pub skipped: u64,
    /// The sender, if it could be read.
    pub source: Address,
    /// The receiver, if it could be read.
    pub destination: Address,
    /// Where the packet is counted: see [`counted`](super::counted).
    pub place: u32,
    /// The interface's index.
    pub interface: u32,
    /// Of the frame.
    pub bytes: u32,
    /// In network byte order.
    pub source_port: u16,
    /// In network byte order.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// TCP's flags, or ICMP's type.
    pub detail: u8,
    /// [`event_flag`]s.
    pub flags: u8,
    /// Zero.
    pub reserved: [u8; 5],
}

impl Event {
    /// Of nothing.
    pub const NOTHING: Self = Self {
        time_ns: 0,
        skipped: 0,
        source: [0; 16],
        destination: [0; 16],
        place: 0,
        interface: 0,
        bytes: 0,
        source_port: 0,
        destination_port: 0,
        protocol: 0,
        detail: 0,
        flags: 0,
        reserved: [0; 5],
    };
}

/// What is known of an event's packet.
pub mod event_flag {
    /// It could be read: addresses, protocol and ports are its own.
    pub const READ: u8 = 1;
    /// It is part of a fragmented packet.
    pub const FRAGMENT: u8 = 1 << 1;
    /// It is not the first part.
    pub const LATER_FRAGMENT: u8 = 1 << 2;
}

/// Bounds how many events a CPU tells of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct EventGate {
    /// When the next is due, in the long run.
    pub next_ns: u64,
    /// Skipped since the last.
    pub skipped: u64,
    /// For which the ring had no room.
    pub lost: u64,
    /// Skipped in all.
    pub total_skipped: u64,
}
