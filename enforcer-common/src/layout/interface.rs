//! An interface, and the services behind it.

/// An interface's part in the generation in force. Replacing this value is what switches an interface
/// from one generation to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Interface {
    /// The slot in force.
    pub slot: u32,
    /// The services' group: interfaces with the same policies share one.
    pub group: u32,
    /// The policy about all traffic, or [`NO_POLICY`](super::NO_POLICY). Where some policy enforces, those alone
    /// are chosen from; else those in shadow are. The same holds of `base` and of [`Service::policy`].
    pub any: u32,
    /// The policy for packets whose port cannot be known (later fragments) or trusted (malformed).
    pub base: u32,
    /// Where this interface's own limiter lies among those of a limit per interface.
    pub position: u32,
    /// [`interface_flag`]s.
    pub flags: u32,
    /// Where policies are [`interface_flag::MIXED`]: the policy in shadow that would be `any` if it enforced, or
    /// [`NO_POLICY`](super::NO_POLICY).
    pub tried_any: u32,
    /// The same of `base`.
    pub tried_base: u32,
    /// The policy that drops frames which carry IP by another device (`opaque: drop`), or
    /// [`NO_POLICY`](super::NO_POLICY).
    pub opaque: u32,
    /// The same of one in shadow.
    pub tried_opaque: u32,
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
    /// Some policy has rules for what leaves.
    pub const EGRESS: u32 = 1 << 1;
    /// Some of them are about destinations on no prefix: there is a root set.
    pub const EGRESS_ROOT: u32 = 1 << 2;
    /// Something is denied by default, so that flows are remembered for their replies.
    pub const EGRESS_MEMORY: u32 = 1 << 3;
    /// Some policy is about what the interface's other end sends.
    pub const POD: u32 = 1 << 4;
    /// As [`EGRESS_ROOT`], for that.
    pub const POD_ROOT: u32 = 1 << 5;
    /// As [`EGRESS_MEMORY`], for that.
    pub const POD_MEMORY: u32 = 1 << 6;
    /// Some policy limits what leaves.
    pub const EGRESS_LIMITS: u32 = 1 << 7;
    /// Packets begin with the IP header: the device has no Ethernet header (tun, IP tunnels).
    pub const BARE: u32 = 1 << 8;
    /// Some policies enforce and some are in shadow. Those in shadow are asked by themselves, and only count.
    pub const MIXED: u32 = 1 << 9;
    /// Flows are remembered for a default that denies in shadow, apart from those of [`EGRESS_MEMORY`].
    pub const TRIED_MEMORY: u32 = 1 << 10;
    /// As [`TRIED_MEMORY`], for what the interface's other end sends.
    pub const TRIED_POD_MEMORY: u32 = 1 << 11;
    /// All policies are in shadow.
    pub const SHADOW: u32 = 1 << 12;
    /// Beside the base a policy decides about some ports, so that of a packet without a readable port nobody knows which does.
    pub const BASE_AND_PORTS: u32 = 1 << 13;
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

/// Which policies a protocol and port has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Service {
    /// The policy that decides, or [`NO_POLICY`](super::NO_POLICY).
    pub policy: u32,
    /// As [`Interface::tried_any`].
    pub tried: u32,
}
