//! What lies in the kernel's maps. `docs/architecture.md` has the table of maps.
//!
//! Integers only, no padding that is not named, sizes and offsets asserted at compile time. Bump
//! [`VERSION`] when any of it changes.

use crate::{
    hash::Key,
    limiter::Params,
    verdict::{Direction, Reason, Verdict},
};

/// The layout's version; it is part of the path under which maps are pinned.
pub const VERSION: u32 = 4;

/// Limits in one packet policy, at most.
pub const LIMITS_PER_POLICY: usize = 4;
/// Packet policies in force at one time on one node, at most.
pub const MAX_POLICIES: u32 = 128;
/// The pseudo-policy to which packets are counted that no policy is about.
pub const NO_POLICY: u32 = MAX_POLICIES;
/// Slots of generations: one in force, one being written.
pub const SLOTS: u32 = 2;
/// Entries of the policies map.
pub const POLICY_ENTRIES: u32 = SLOTS * MAX_POLICIES;
/// Network interfaces with packet policies, at most.
pub const MAX_INTERFACES: u32 = 4_096;
/// Entries of the services map: protocol and port, for each group of interfaces, in both slots.
pub const MAX_SERVICES: u32 = 65_536;
/// Prefixes on all access lists together, in both slots.
pub const MAX_PREFIXES: u32 = 524_288;
/// Denials with a lifetime at one time.
pub const MAX_DENIALS: u32 = 65_536;
/// Verified connections at once, unless configured.
pub const DEFAULT_FLOWS: u32 = 65_536;
/// Identities with a budget of their own at once.
pub const MAX_IDENTITIES: u32 = 16_384;
/// Limiters shared by all packets of a service or an interface.
pub const MAX_SHARED: u32 = 8_192;
/// The node's own addresses to which SYNs are answered.
pub const MAX_LOCAL: u32 = 4_096;
/// Connections whose cookie has just come back: a power of two.
pub const PROVEN_CELLS: u32 = 65_536;

/// An address of either family: IPv4 as IPv4-mapped (RFC 4291, 2.5.5.2), in network byte order.
pub type Address = [u8; 16];

/// The first twelve bytes of an IPv4-mapped address.
pub const V4_MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// The one element of the control map: what all packets need and no generation owns.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Control {
    /// The sketch's secret.
    pub key: Key,
    /// [`control_flag`]s.
    pub flags: u64,
    /// The index of the sketch's last line: a power of two less one.
    pub sketch_mask: u64,
    /// Zero, which the verifier does not know: what it is added to, the verifier knows nothing of. Stages
    /// behind the parser are so looked at once, not once for each kind of packet.
    pub zero: u64,
    /// Until when, in ns of the monotonic clock, the agent counts as alive: it moves this on as long as it
    /// runs. Past it, limits lapse. `u64::MAX`: never.
    pub alive_until_ns: u64,
    /// What this node's stack takes on in a connection, as [`syn_option`]s.
    pub syn_options: u64,
}

/// TCP options as a SYN cookie's timestamp carries them: its low bits tell the stack what the SYN had
/// (`net/ipv4/syncookies.c`).
pub mod syn_option {
    /// Window scale (RFC 7323); [`NO_SCALE`] is none.
    pub const SCALE: u64 = 0x0f;
    /// There is no window scale.
    pub const NO_SCALE: u64 = 0x0f;
    /// Selective acknowledgement (RFC 2018).
    pub const SACK: u64 = 1 << 4;
    /// Timestamps (RFC 7323) that the stack reads back as they were sent. Not part of the timestamp.
    pub const TIMESTAMPS: u64 = 1 << 8;
}

/// Which tables hold anything at all, so that packets skip the others.
pub mod control_flag {
    /// The management list has entries.
    pub const MANAGEMENT: u64 = 1;
    /// Operators or failed authentication have denied somebody.
    pub const RUNTIME: u64 = 1 << 1;
    /// There are verified connections.
    pub const FLOWS: u64 = 1 << 2;
    /// When the agent is gone, deny lists lapse too.
    pub const DENIALS_LAPSE: u64 = 1 << 3;
}

/// An interface's part in the generation in force. Replacing this value is what switches an interface
/// from one generation to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Interface {
    /// The slot in force.
    pub slot: u32,
    /// The services' group: interfaces with the same policies share one.
    pub group: u32,
    /// The policy about all traffic, or [`NO_POLICY`].
    pub any: u32,
    /// The policy for packets whose port cannot be known (later fragments) or trusted (malformed).
    pub base: u32,
    /// Where this interface's own limiter lies among those of a limit per interface.
    pub position: u32,
    /// [`interface_flag`]s.
    pub flags: u32,
}

/// Seats of interfaces: a power of two.
pub const SEATS: u32 = 4_096;

/// A place in front of the interfaces map, by the index's last bits: an array is read in a fraction of the
/// time. Whoever finds another interface's index here looks into the map, which has all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Seat {
    /// The interface's index; zero is nobody's.
    pub index: u32,
    /// Which bank is in force: 0 or 1. The other is written before this changes.
    pub select: u32,
    /// The banks.
    pub banks: [Interface; 2],
}

/// What an interface's policies have.
pub mod interface_flag {
    /// Some policy names ports.
    pub const PORTS: u32 = 1;
    /// Some policy has an egress deny list.
    pub const EGRESS: u32 = 1 << 1;
}

/// A protocol and port of a group of interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ServiceKey {
    /// The group of interfaces.
    pub group: u32,
    /// In network byte order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// The slot.
    pub slot: u8,
}

/// A policy: one of two banks is in force, so that the controller can write the other and then switch
/// by changing `select` alone.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Policy {
    /// 0 or 1.
    pub select: u64,
    /// The banks.
    pub banks: [Bank; 2],
}

/// What a policy says.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Bank {
    /// [`policy_flag`]s.
    pub flags: u32,
    /// How many of `limits` are in use.
    pub limit_count: u32,
    /// The budget of each verified identity.
    pub verified: Params,
    /// The limits.
    pub limits: [Limit; LIMITS_PER_POLICY],
}

/// What a policy has.
pub mod policy_flag {
    /// Nothing is dropped, only counted.
    pub const SHADOW: u32 = 1;
    /// It has an access list.
    pub const ACCESS: u32 = 1 << 1;
    /// Verified identities have a budget of their own.
    pub const VERIFIED: u32 = 1 << 2;
    /// SYNs are answered with cookies.
    pub const SYN_ANSWERED: u32 = 1 << 8;
    /// SYNs are counted, so that the controller sees when to answer them.
    pub const SYN_COUNTED: u32 = 1 << 9;
}

/// A limit of a policy.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Limit {
    /// The limiter.
    pub params: Params,
    /// [`limit_key`].
    pub key: u32,
    /// [`limit_count`].
    pub count: u32,
    /// Tells this limit's sources from those of other limits in the sketch. Never reused while the
    /// agent runs.
    pub id: u32,
    /// The first of this limit's shared limiters, when it is not by source.
    pub shared: u32,
    /// The first half of the mask that leaves an IPv6 source's prefix; host byte order of a
    /// big-endian load.
    pub mask_v6_high: u64,
    /// The second half.
    pub mask_v6_low: u64,
    /// The mask for an IPv4 source, as the second half of its mapped address.
    pub mask_v4_low: u64,
}

/// Whose packets share a limiter.
pub mod limit_key {
    /// A source prefix.
    pub const SOURCE: u32 = 0;
    /// The policy's traffic.
    pub const SERVICE: u32 = 1;
    /// The policy's traffic on an interface.
    pub const INTERFACE: u32 = 2;
}

/// What a limit counts.
pub mod limit_count {
    /// Packets.
    pub const PACKETS: u32 = 0;
    /// Bytes of the frame, Ethernet header included.
    pub const BYTES: u32 = 1;
    /// TCP SYNs without ACK.
    pub const CONNECTIONS: u32 = 2;
}

/// What an access list is keyed by, behind the prefix length: the table, then the address. A prefix
/// of an address is `32 + its bits` long; IPv4 prefixes have another 96 in front.
///
/// Each family has a list of its own: all IPv6 sources are `::/0`, which must not mean mapped ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct AccessKey {
    /// Made by [`table`], with [`IPV4_LIST`] for an IPv4 address; in network byte order.
    pub table: u32,
    /// The address.
    pub address: Address,
}

/// An access list's number: [`table_kind`], slot and policy or group.
#[inline(always)]
#[must_use]
pub const fn table(kind: u32, slot: u32, owner: u32) -> u32 {
    ((kind << 28) | (slot << 27) | (owner & 0x03ff_ffff)).to_be()
}

/// The [`table_kind`] and the slot of an access list, whichever half of it.
#[must_use]
pub const fn table_parts(table: u32) -> (u32, u32) {
    let table = u32::from_be(table);
    (table >> 28, (table >> 27) & 1)
}

/// Marks a list's half that is about IPv4.
pub const IPV4_LIST: u32 = (1_u32 << 26).to_be();

/// The access lists.
pub mod table_kind {
    /// Sources that are never dropped, whatever happens. No slot, no owner.
    pub const MANAGEMENT: u32 = 1;
    /// What operators and failed authentication have denied. No slot, no owner.
    pub const RUNTIME: u32 = 2;
    /// A policy's allow and deny list; the owner is the policy.
    pub const INGRESS: u32 = 3;
    /// The egress deny lists of a group of interfaces; the owner is the group.
    pub const EGRESS: u32 = 4;
}

/// What an access list says of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Access {
    /// From when on the entry no longer holds, on the kernel's monotonic clock. `u64::MAX`: never.
    pub expires_ns: u64,
    /// A [`Reason`]: of a drop, or [`Reason::Allowed`].
    pub reason: u32,
    /// The policy to which it is counted, or [`NO_POLICY`].
    pub policy: u32,
    /// How many bits of the key it is about. Once it has ended, a shorter one may hold.
    pub prefix: u32,
    /// Zero.
    pub reserved: u32,
}

impl Access {
    /// An entry, whose prefix is filled in where it is entered.
    #[must_use]
    pub const fn new(expires_ns: u64, reason: Reason, policy: u32) -> Self {
        Self {
            expires_ns,
            reason: reason as u32,
            policy,
            prefix: 0,
            reserved: 0,
        }
    }
}

/// A verified TCP connection, as its packets arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// The peer.
    pub source: Address,
    /// The local end.
    pub destination: Address,
    /// In network byte order.
    pub source_port: u16,
    /// In network byte order.
    pub destination_port: u16,
}

/// Who is behind a verified connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// The identity's place among the budgets.
    pub identity: u32,
    /// Zero.
    pub reserved: u32,
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes of their frames.
    pub bytes: u64,
}

/// A denied prefix, as the map of reasons is keyed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct DeniedPrefix {
    /// As in [`AccessKey`].
    pub table: u32,
    /// The address.
    pub address: Address,
    /// In bits of the whole key.
    pub length: u32,
}

/// Why a prefix is denied, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DenialReason {
    /// How many bytes of `text` are in use.
    pub length: u32,
    /// UTF-8.
    pub text: [u8; REASON_BYTES],
}

/// The longest reason of a denial that is kept, in bytes.
pub const REASON_BYTES: usize = 200;
/// Chunks of one of the two banks of the agent's notes.
pub const NOTE_CHUNKS: u32 = 64;
/// Bytes of a chunk.
pub const NOTE_CHUNK: usize = 4_096;

/// Entries of the counters map.
pub const COUNTERS: u32 = 2 * (MAX_POLICIES + 1) * Reason::COUNT * Verdict::COUNT;

/// The place of a verdict in the counters map.
#[inline(always)]
#[must_use]
pub const fn counter(direction: Direction, policy: u32, reason: Reason, verdict: Verdict) -> u32 {
    let policies = direction as u32 * (MAX_POLICIES + 1) + policy;
    (policies * Reason::COUNT + reason as u32) * Verdict::COUNT + verdict as u32
}

/// What a place in the counters map stands for: direction, policy, reason and verdict.
#[must_use]
pub fn counted(place: u32) -> Option<(Direction, u32, Reason, Verdict)> {
    let verdict = Verdict::ALL[(place % Verdict::COUNT) as usize];
    let rest = place / Verdict::COUNT;
    let reason = Reason::ALL[(rest % Reason::COUNT) as usize];
    let policies = rest / Reason::COUNT;
    let direction = Direction::ALL.get((policies / (MAX_POLICIES + 1)) as usize)?;
    Some((*direction, policies % (MAX_POLICIES + 1), reason, verdict))
}

/// Bits by which a program that is told the time moves the verdict's place in the counters map, plus
/// one, to the left in what it returns. The hook's own number is below.
pub const PLACE_SHIFT: u32 = 8;

/// Bytes of the ring of events, a power of two of pages: 3,276 events of 72 bytes with 8 of the ring's own.
pub const EVENT_RING_BYTES: u32 = 1 << 18;
/// How much of an idle CPU's rate of events may come at once: that of a tenth of a second.
pub const EVENT_BURST_NS: u64 = 100_000_000;

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
    /// Where the packet is counted: see [`counted`].
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

/// The sign bit stays free: all bits set is a number of TC's own.
const _: () = assert!(COUNTERS < 1 << (31 - PLACE_SHIFT));

macro_rules! layout {
    ($($type:ty: $size:expr, {$($field:ident: $offset:expr),* $(,)?};)*) => {
        $(const _: () = {
            assert!(size_of::<$type>() == $size);
            $(assert!(core::mem::offset_of!($type, $field) == $offset);)*
        };)*
    };
}

const PARAMS: usize = size_of::<Params>();
const LIMIT: usize = PARAMS + 40;
const BANK: usize = 8 + PARAMS + LIMITS_PER_POLICY * LIMIT;

layout! {
    Control: 56, {key: 0, flags: 16, sketch_mask: 24, zero: 32, alive_until_ns: 40, syn_options: 48};
    Interface: 24, {slot: 0, group: 4, any: 8, base: 12, position: 16, flags: 20};
    Seat: 56, {index: 0, select: 4, banks: 8};
    ServiceKey: 8, {group: 0, port: 4, protocol: 6, slot: 7};
    Limit: LIMIT, {params: 0, key: PARAMS, count: PARAMS + 4, id: PARAMS + 8, shared: PARAMS + 12,
        mask_v6_high: PARAMS + 16, mask_v6_low: PARAMS + 24, mask_v4_low: PARAMS + 32};
    Bank: BANK, {flags: 0, limit_count: 4, verified: 8, limits: 8 + PARAMS};
    Policy: 8 + 2 * BANK, {select: 0, banks: 8};
    AccessKey: 20, {table: 0, address: 4};
    Access: 24, {expires_ns: 0, reason: 8, policy: 12, prefix: 16, reserved: 20};
    FlowKey: 36, {source: 0, destination: 16, source_port: 32, destination_port: 34};
    Flow: 8, {identity: 0, reserved: 4};
    Counter: 16, {packets: 0, bytes: 8};
    DeniedPrefix: 24, {table: 0, address: 4, length: 20};
    DenialReason: 4 + REASON_BYTES, {length: 0, text: 4};
    Event: 72, {time_ns: 0, skipped: 8, source: 16, destination: 32, place: 48, interface: 52, bytes: 56,
        source_port: 60, destination_port: 62, protocol: 64, detail: 65, flags: 66, reserved: 67};
    EventGate: 32, {next_ns: 0, skipped: 8, lost: 16, total_skipped: 24};
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_verdict_has_a_counter_of_its_own() {
        let mut seen = HashSet::new();
        for direction in Direction::ALL {
            for policy in 0..=NO_POLICY {
                for &reason in Reason::ALL {
                    for verdict in Verdict::ALL {
                        let place = counter(direction, policy, reason, verdict);
                        assert!(place < COUNTERS);
                        assert!(seen.insert(place));
                        assert_eq!(counted(place), Some((direction, policy, reason, verdict)));
                    }
                }
            }
        }
        assert_eq!(seen.len(), COUNTERS as usize);
        assert_eq!(counted(COUNTERS), None);
    }

    #[test]
    fn a_table_says_its_kind_and_slot() {
        let list = table(table_kind::EGRESS, 1, 0x03ff_ffff) | IPV4_LIST;
        assert_eq!(table_parts(list), (table_kind::EGRESS, 1));
        assert_eq!(
            table_parts(table(table_kind::INGRESS, 0, 7)),
            (table_kind::INGRESS, 0)
        );
    }

    #[test]
    fn tables_do_not_meet() {
        let tables: HashSet<u32> = [
            table(table_kind::MANAGEMENT, 0, 0),
            table(table_kind::RUNTIME, 0, 0),
            table(table_kind::INGRESS, 0, 5),
            table(table_kind::INGRESS, 1, 5),
            table(table_kind::INGRESS, 1, 6),
            table(table_kind::EGRESS, 1, 6),
            table(table_kind::EGRESS, 1, 6) | IPV4_LIST,
        ]
        .into();
        assert_eq!(tables.len(), 7);
    }
}
