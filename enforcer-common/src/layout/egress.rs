//! What leaves: rules by destination, protocol and port, and limits.

use super::{Limit, NO_POLICY};

/// A rule's key: a set of rules, and in it a protocol and port. All rules of all prefixes that contain a
/// prefix are in its set, so that its longest prefix alone says what becomes of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct EgressKey {
    /// The set: a number, or made by [`egress_root`].
    pub set: u32,
    /// In network byte order. Zero: every port that no other rule of the set is about.
    pub port: u16,
    /// IP protocol number; both families' ICMP is 1. Zero: every protocol that no other rule is about.
    pub protocol: u8,
    /// The slot.
    pub slot: u8,
}

/// The set for destinations that are on no prefix of an interface's list: its default, and what is written
/// about all addresses of a family.
#[inline(always)]
#[must_use]
pub const fn egress_root(side: u32, group: u32, ipv4: bool) -> u32 {
    1 << 31 | side << 30 | (ipv4 as u32) << 29 | group
}

/// The set with one rule, about what names no destination that can be read: it is denied where any list, limit or
/// default might be about it.
#[inline(always)]
#[must_use]
pub const fn egress_nameless(side: u32, group: u32) -> u32 {
    1 << 31 | side << 30 | 1 << 28 | group
}

/// The protocol of a packet that cannot be parsed as far as that (255 is reserved, RFC 5237).
pub const UNPARSED: u8 = 255;

/// Whose egress is judged.
pub mod egress_side {
    /// The node's: what leaves by the interface.
    pub const NODE: u32 = 0;
    /// That of the interface's other end: what arrives by the interface.
    pub const POD: u32 = 1;
}

/// What an [`Access`](super::Access) of an egress list says in `rules`.
pub mod egress_set {
    /// The set's number.
    pub const NUMBER: u32 = (1 << 28) - 1;
    /// The set has a rule about what cannot be parsed: it denies some protocol or port.
    pub const UNPARSED: u32 = 1 << 29;
    /// The set has rules about protocols.
    pub const PROTOCOLS: u32 = 1 << 30;
    /// The set has rules about ports.
    pub const PORTS: u32 = 1 << 31;
}

/// What becomes of a packet, in this order: denied by a list that is enforced, by a default that is, by a
/// list in shadow, by a default in shadow; else it passes. What allows a packet takes the defaults away when
/// this is compiled. Policies are numbers, or [`NO_POLICY`] for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct EgressRule {
    /// Until when, on the kernel's monotonic clock, a list that is enforced denies it.
    pub denied_until_ns: u64,
    /// The same of a list in shadow.
    pub tried_until_ns: u64,
    /// Whose list that is.
    pub denied_by: u32,
    /// Whose list in shadow that is.
    pub tried_by: u32,
    /// Whose default denies it.
    pub default_by: u32,
    /// Whose default in shadow would.
    pub default_tried_by: u32,
}

impl EgressRule {
    /// What passes.
    pub const PASS: Self = Self {
        denied_until_ns: 0,
        tried_until_ns: 0,
        denied_by: NO_POLICY,
        tried_by: NO_POLICY,
        default_by: NO_POLICY,
        default_tried_by: NO_POLICY,
    };
}

/// A policy's limits on what leaves.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct EgressLimits {
    /// Whose egress they are about: [`egress_side`].
    pub side: u32,
    /// How many are in use.
    pub count: u32,
    /// The limits: by destination ([`limit_key::SOURCE`](super::limit_key::SOURCE), for a destination is found
    /// in the sketch as a source is) or by interface; of bytes.
    pub limits: [Limit; EGRESS_LIMITS_PER_POLICY],
}

/// Limits on what leaves in one packet policy, at most.
pub const EGRESS_LIMITS_PER_POLICY: usize = 2;
/// Rules for what leaves, in all slots.
pub const MAX_EGRESS_RULES: u32 = 393_216;
/// Lines of the memory of flows: a power of two.
pub const FLOW_MEMORY_LINES: u32 = 32_768;
