//! Stage 3: which policy a packet is under.

use enforcer_common::layout::{
    Bank, Interface as Entry, MAX_POLICIES, NO_POLICY, POLICY_ENTRIES, Service, ServiceKey, interface_flag,
    policy_flag,
};

use crate::{
    forget::forget,
    interface::Interface,
    maps::{POLICIES, SERVICES},
    parse::Packet,
};

/// The policy for a packet to or from local `port` (network byte order), or [`NO_POLICY`].
#[inline(always)]
pub fn find(interface: Interface, packet: &Packet, port: u16) -> u32 {
    if packet.later_fragment {
        return interface.base();
    }
    match lookup(interface, packet, port) {
        Some(service) => service.policy,
        None => interface.any(),
    }
}

/// The policy in shadow that the packet would be under if it enforced, where policies are mixed.
#[inline(always)]
pub fn tried(entry: &Entry, packet: &Packet, port: u16) -> u32 {
    if packet.later_fragment {
        return entry.tried_base;
    }
    match lookup(Interface::of(entry), packet, port) {
        Some(service) => service.tried,
        None => entry.tried_any,
    }
}

#[inline(always)]
fn lookup(interface: Interface, packet: &Packet, port: u16) -> Option<&'static Service> {
    if !interface.has(interface_flag::PORTS) || port == 0 {
        return None;
    }
    let key = ServiceKey {
        group: interface.group(),
        port,
        protocol: packet.protocol,
        slot: interface.slot() as u8,
    };
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "a key by value is copied, on a stack that is short"
    )]
    // SAFETY: the agent replaces values as a whole; a policy number read here is one it wrote.
    unsafe {
        SERVICES.get(&key)
    }
}

/// Where what a policy says is in the policies map: index and bank in one number, for each takes up a stack that is short.
#[derive(Clone, Copy)]
pub struct Place(u64);

impl Place {
    const BANK: u32 = 16;

    #[inline(always)]
    pub fn new(index: u32, bank: u32) -> Self {
        Self(u64::from(index & 0xffff) | u64::from(bank & 1) << Self::BANK)
    }

    /// As a number below 2 to the 17th.
    #[inline(always)]
    pub fn number(self) -> u64 {
        self.0
    }

    /// What [`Self::number`] gave, whatever is above it.
    #[inline(always)]
    pub fn from_number(number: u64) -> Self {
        Self(number & ((1 << (Self::BANK + 1)) - 1))
    }

    /// The same, of which the compiler keeps no parts: see [`forget`].
    #[inline(always)]
    pub fn whole(self, zero: u64) -> Self {
        Self(forget(self.0, zero))
    }

    #[inline(always)]
    pub fn index(self) -> u32 {
        self.0 as u32 & 0xffff
    }

    #[inline(always)]
    pub fn bank(self) -> u32 {
        (self.0 >> Self::BANK) as u32 & 1
    }

    /// The policy's number.
    #[inline(always)]
    pub fn policy(self) -> u32 {
        self.0 as u32 & (MAX_POLICIES - 1)
    }
}

const _: () = assert!(MAX_POLICIES.is_power_of_two());

/// What `policy` says in the interface's slot, and where.
#[inline(always)]
pub fn bank(interface: Interface, policy: u32) -> Option<(Place, &'static Bank)> {
    if policy >= NO_POLICY {
        return None;
    }
    let index = interface.slot() * MAX_POLICIES + policy;
    if index >= POLICY_ENTRIES {
        return None;
    }
    let entry = POLICIES.get(index)?;
    let bank = (entry.select & 1) as u32;
    Some((
        Place::new(index, bank),
        if bank == 0 {
            &entry.banks[0]
        } else {
            &entry.banks[1]
        },
    ))
}

/// Whether a policy only counts. One that is not there does.
#[inline(always)]
pub fn is_shadow(interface: Interface, policy: u32) -> bool {
    bank(interface, policy).is_none_or(|(_, bank)| bank.flags & policy_flag::SHADOW != 0)
}
