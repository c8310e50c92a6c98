//! A policy and its limits.

use super::LIMITS_PER_POLICY;
use crate::limiter::Params;

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
    /// [`Reason::bit`](crate::verdict::Reason::bit)s of those limits and of the budget whose drops the sender
    /// is told of. Entries of deny lists say so themselves.
    pub resets: u64,
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
