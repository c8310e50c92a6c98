//! Access lists, and why prefixes are denied.

use super::Address;
use crate::verdict::Reason;

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
    ((kind << 28) | ((slot & 3) << 26) | (owner & 0x01ff_ffff)).to_be()
}

/// The [`table_kind`] and the slot of an access list, whichever half of it.
#[must_use]
pub const fn table_parts(table: u32) -> (u32, u32) {
    let table = u32::from_be(table);
    (table >> 28, (table >> 26) & 3)
}

/// Marks a list's half that is about IPv4.
pub const IPV4_LIST: u32 = (1_u32 << 25).to_be();

/// The access lists.
pub mod table_kind {
    /// Sources that are never dropped, whatever happens. No slot, no owner.
    pub const MANAGEMENT: u32 = 1;
    /// What operators have denied. No slot, no owner.
    pub const OPERATOR: u32 = 2;
    /// A policy's allow and deny list; the owner is the policy.
    pub const INGRESS: u32 = 3;
    /// The egress lists of a group of interfaces; the owner is the group.
    pub const EGRESS: u32 = 4;
    /// The egress lists for the other ends of a group of interfaces; the owner is the group.
    pub const POD: u32 = 5;
    /// What the agent has denied by itself, for failed authentication. Apart from [`OPERATOR`], so that neither
    /// hides the other. No slot, no owner.
    pub const AUTOMATIC: u32 = 6;
}

/// What an access list says of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Access {
    /// From when on the entry no longer holds, on the kernel's monotonic clock. `u64::MAX`: never.
    pub expires_ns: u64,
    /// A [`Reason`]: of a drop, or [`Reason::Allowed`].
    pub reason: u32,
    /// The policy to which it is counted, or [`NO_POLICY`](super::NO_POLICY).
    pub policy: u32,
    /// How many bits of the key it is about. Once it has ended, a shorter one may hold.
    pub prefix: u16,
    /// [`access_flag`]s.
    pub flags: u16,
    /// On egress lists, the prefix's set of rules: [`egress_set`](super::egress_set). Zero on others.
    pub rules: u32,
}

/// What an entry has.
pub mod access_flag {
    /// Senders that it denies are told so. The program takes this for a number, so it is 1.
    pub const RESET: u16 = 1;
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
            flags: 0,
            rules: 0,
        }
    }

    /// The same, whose senders are told.
    #[must_use]
    pub const fn resetting(mut self, resets: bool) -> Self {
        self.flags = if resets { access_flag::RESET } else { 0 };
        self
    }
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
