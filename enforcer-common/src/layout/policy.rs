//! A policy and its limits.

use super::LIMITS_PER_BANK;
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
    /// How many of `limits` all packets are under: the first.
    pub limit_count: u32,
    /// How many of `limits` verified connections are under instead: those that follow.
    pub identity_count: u32,
    /// Tells the flows of UDP that its limits have admitted from those of other policies. Never reused while the
    /// agent runs.
    pub udp_id: u32,
    /// How long after its last verified connection a source still has a share in reserve, in ns.
    pub recent_for_ns: u64,
    /// That share, of each source.
    pub recent: Params,
    /// [`Reason::bit`](crate::verdict::Reason::bit)s of the limits and of the budget whose drops the sender
    /// is told of. Entries of deny lists say so themselves.
    pub resets: u64,
    /// The limits.
    pub limits: [Limit; LIMITS_PER_BANK],
}

impl Bank {
    /// The levels of the limit at `index` of the policy, in order.
    pub fn levels(&self, index: usize) -> impl Iterator<Item = &Limit> {
        let used = (self.limit_count + self.identity_count) as usize;
        let used = self.limits.iter().take(used);
        used.filter(move |limit| usize::from(limit.index) == index)
    }

    /// The same, to be changed.
    pub fn levels_mut(&mut self, index: usize) -> impl Iterator<Item = &mut Limit> {
        let used = (self.limit_count + self.identity_count) as usize;
        let used = self.limits.iter_mut().take(used);
        used.filter(move |limit| usize::from(limit.index) == index)
    }
}

/// What a policy has.
pub mod policy_flag {
    /// Nothing is dropped, only counted.
    pub const SHADOW: u32 = 1;
    /// It has an access list.
    pub const ACCESS: u32 = 1 << 1;
    /// Verified identities have a budget of their own.
    pub const VERIFIED: u32 = 1 << 2;
    /// Sources that were verified recently have a share in reserve.
    pub const RECENT: u32 = 1 << 3;
    /// A limit counts UDP's flows.
    pub const UDP_FLOWS: u32 = 1 << 4;
    /// Some limit or budget is over so soon that a tick of the clock matters to it: packets are told the
    /// exact time.
    pub const EXACT_TIME: u32 = 1 << 5;
    /// SYNs are answered with cookies.
    pub const SYN_ANSWERED: u32 = 1 << 8;
    /// SYNs are counted, so that the controller sees when to answer them.
    pub const SYN_COUNTED: u32 = 1 << 9;
}

/// A limit of a policy, or one level of it: see [`super::LIMITS_PER_BANK`].
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Limit {
    /// The limiter.
    pub params: Params,
    /// [`limit_key`].
    pub key: u32,
    /// [`limit_count`].
    pub count: u8,
    /// The [`traffic`] that it is about.
    pub traffic: u8,
    /// The [`family`] of the sources that it is about.
    pub families: u8,
    /// Which of the policy's limits it is a level of, or [`BUDGET`].
    pub index: u8,
    /// Tells this limit's sources from those of other limits in the sketch. Never reused while the
    /// agent runs.
    pub id: u32,
    /// The first of this limit's own limiters, when it is not by source.
    pub shared: u32,
    /// The first half of the mask that leaves an IPv6 source's prefix; host byte order of a
    /// big-endian load.
    pub mask_v6_high: u64,
    /// The second half.
    pub mask_v6_low: u64,
    /// The mask for an IPv4 source, as the second half of its mapped address.
    pub mask_v4_low: u64,
}

/// The index of the budget that each verified identity has without a limit of its own name.
pub const BUDGET: u8 = u8::MAX;

/// Whose packets share a limiter.
pub mod limit_key {
    /// A source prefix.
    pub const SOURCE: u32 = 0;
    /// The policy's traffic.
    pub const SERVICE: u32 = 1;
    /// The policy's traffic on an interface.
    pub const INTERFACE: u32 = 2;
    /// A verified identity.
    pub const IDENTITY: u32 = 3;
}

/// What a limit counts.
pub mod limit_count {
    /// Packets.
    pub const PACKETS: u8 = 0;
    /// Bytes of the frame, Ethernet header included.
    pub const BYTES: u8 = 1;
    /// TCP SYNs without ACK, and the first packets of UDP flows.
    pub const CONNECTIONS: u8 = 2;
}

/// Kinds of traffic: each packet is of one, and a limit is about any of them.
pub mod traffic {
    /// A TCP SYN without ACK.
    pub const TCP_SYN: u8 = 1;
    /// Any other TCP segment.
    pub const TCP_OTHER: u8 = 1 << 1;
    /// UDP.
    pub const UDP: u8 = 1 << 2;
    /// ICMP and ICMPv6.
    pub const ICMP: u8 = 1 << 3;
    /// Any other protocol.
    pub const OTHER: u8 = 1 << 4;
    /// All of them.
    pub const ALL: u8 = (1 << 5) - 1;
}

/// IP versions.
pub mod family {
    /// IPv4.
    pub const IPV4: u8 = 1;
    /// IPv6.
    pub const IPV6: u8 = 1 << 1;
    /// Both.
    pub const BOTH: u8 = IPV4 | IPV6;
}
