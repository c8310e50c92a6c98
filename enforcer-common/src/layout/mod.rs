//! What lies in the kernel's maps. `docs/architecture.md` has the table of maps.
//!
//! Integers only, no padding that is not named, sizes and offsets asserted at compile time. Bump
//! [`VERSION`] when any of it changes.

mod access;
mod control;
mod counter;
mod egress;
mod event;
mod flow;
mod interface;
mod policy;

pub use access::*;
pub use control::*;
pub use counter::*;
pub use egress::*;
pub use event::*;
pub use flow::*;
pub use interface::*;
pub use policy::*;

use crate::limiter::Params;

/// The layout's version; it is part of the path under which maps are pinned.
pub const VERSION: u32 = 7;
/// Limits in one packet policy, at most.
pub const LIMITS_PER_POLICY: usize = 4;
/// Levels of all limits of one packet policy together, at most: each prefix of a limit is one.
pub const LEVELS_PER_POLICY: usize = 8;
/// Limits in one bank of a policy: its levels, the budget of verified identities, and room. A power of two.
pub const LIMITS_PER_BANK: usize = 16;
/// Packet policies in force at one time on one node, at most.
pub const MAX_POLICIES: u32 = 128;
/// The pseudo-policy to which packets are counted that no policy is about.
pub const NO_POLICY: u32 = MAX_POLICIES;
/// Slots of generations: one in force, one being written, and room for a provisional one. Keys hold four.
pub const SLOTS: u32 = 3;
/// Entries of the policies map.
pub const POLICY_ENTRIES: u32 = SLOTS * MAX_POLICIES;
/// Network interfaces with packet policies, at most.
pub const MAX_INTERFACES: u32 = 4_096;
/// Entries of the services map: protocol and port, for each group of interfaces, in all slots.
pub const MAX_SERVICES: u32 = 98_304;
/// Prefixes on all access lists together, in all slots, and all denials.
pub const MAX_PREFIXES: u32 = 753_664;
/// Denials with a lifetime at one time.
pub const MAX_DENIALS: u32 = 65_536;
/// Verified connections at once, unless configured.
pub const DEFAULT_FLOWS: u32 = 65_536;
/// Connections that are revoked at once.
pub const MAX_REVOKED: u32 = 4_096;
/// Identities with a budget of their own at once.
pub const MAX_IDENTITIES: u32 = 16_384;
/// Limiters that each identity has: the budget of `verified`, one for each limit per identity, and
/// [`TRIED_BUDGET`].
pub const CELLS_PER_IDENTITY: u32 = 17;
/// Which of each identity's limiters is the budget of `verified` to policies in shadow: they spend nothing of those that
/// enforce.
pub const TRIED_BUDGET: u32 = CELLS_PER_IDENTITY - 1;
/// Sources that are remembered for having been verified.
pub const MAX_RECENT: u32 = 16_384;
/// Shares in reserve: those sources' to policies that enforce, then to policies in shadow.
pub const RESERVE_CELLS: u32 = 2 * MAX_RECENT;
/// Words of the bits that spare packets a look at those sources: 8 KiB.
pub const RECENT_WORDS: u32 = 1_024;
/// Limiters shared by all packets of a service or an interface.
pub const MAX_SHARED: u32 = 8_192;
/// The node's own addresses to which SYNs are answered.
pub const MAX_LOCAL: u32 = 4_096;
/// Lines of the memory of UDP's flows, of eight flows each: a power of two.
pub const UDP_LINES: u32 = 8_192;
/// Connections whose cookie has just come back: a power of two.
pub const PROVEN_CELLS: u32 = 65_536;
/// An address of either family: IPv4 as IPv4-mapped (RFC 4291, 2.5.5.2), in network byte order.
pub type Address = [u8; 16];
/// The first twelve bytes of an IPv4-mapped address.
pub const V4_MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
/// Chunks of one of the two banks of the agent's notes.
pub const NOTE_CHUNKS: u32 = 64;
/// Bytes of a chunk.
pub const NOTE_CHUNK: usize = 4_096;
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
const BANK: usize = 32 + PARAMS + LIMITS_PER_BANK * LIMIT;
const _: () = assert!(LEVELS_PER_POLICY < LIMITS_PER_BANK && LIMITS_PER_BANK.is_power_of_two());

layout! {
    Control: 56, {key: 0, flags: 16, sketch_mask: 24, zero: 32, alive_until_ns: 40, syn_options: 48};
    Interface: 40, {slot: 0, group: 4, any: 8, base: 12, position: 16, flags: 20, tried_any: 24,
        tried_base: 28, opaque: 32, tried_opaque: 36};
    Seat: 88, {index: 0, select: 4, banks: 8};
    Service: 8, {policy: 0, tried: 4};
    ServiceKey: 8, {group: 0, port: 4, protocol: 6, slot: 7};
    Limit: LIMIT, {params: 0, key: PARAMS, count: PARAMS + 4, traffic: PARAMS + 5, families: PARAMS + 6,
        index: PARAMS + 7, id: PARAMS + 8, shared: PARAMS + 12,
        mask_v6_high: PARAMS + 16, mask_v6_low: PARAMS + 24, mask_v4_low: PARAMS + 32};
    Bank: BANK, {flags: 0, limit_count: 4, identity_count: 8, udp_id: 12, recent_for_ns: 16, recent: 24,
        resets: 24 + PARAMS, limits: 32 + PARAMS};
    Policy: 8 + 2 * BANK, {select: 0, banks: 8};
    AccessKey: 20, {table: 0, address: 4};
    Access: 24, {expires_ns: 0, reason: 8, policy: 12, prefix: 16, flags: 18, rules: 20};
    EgressKey: 8, {set: 0, port: 4, protocol: 6, slot: 7};
    EgressRule: 32, {denied_until_ns: 0, tried_until_ns: 8, denied_by: 16, tried_by: 20, default_by: 24,
        default_tried_by: 28};
    EgressLimits: 8 + EGRESS_LIMITS_PER_POLICY * LIMIT, {side: 0, count: 4, limits: 8};
    FlowKey: 36, {source: 0, destination: 16, source_port: 32, destination_port: 34};
    Flow: 8, {identity: 0, reserved: 4};
    Recent: 16, {seen_ns: 0, place: 8, reserved: 12};
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
    use crate::verdict::{Direction, Reason, Verdict};

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
        let list = table(table_kind::EGRESS, 2, 0x01ff_ffff) | IPV4_LIST;
        assert_eq!(table_parts(list), (table_kind::EGRESS, 2));
        assert_eq!(
            table_parts(table(table_kind::INGRESS, 0, 7)),
            (table_kind::INGRESS, 0)
        );
    }

    #[test]
    fn tables_do_not_meet() {
        let tables: HashSet<u32> = [
            table(table_kind::MANAGEMENT, 0, 0),
            table(table_kind::OPERATOR, 0, 0),
            table(table_kind::AUTOMATIC, 0, 0),
            table(table_kind::INGRESS, 0, 5),
            table(table_kind::INGRESS, 2, 5),
            table(table_kind::INGRESS, 1, 5),
            table(table_kind::INGRESS, 1, 6),
            table(table_kind::EGRESS, 1, 6),
            table(table_kind::EGRESS, 1, 6) | IPV4_LIST,
        ]
        .into();
        assert_eq!(tables.len(), 9);
    }
}
