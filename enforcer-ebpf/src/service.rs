//! Stage 3: which policy a packet is under.

use enforcer_common::layout::{
    Bank, MAX_POLICIES, NO_POLICY, POLICY_ENTRIES, ServiceKey, interface_flag, policy_flag,
};

use crate::{
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
    if interface.has(interface_flag::PORTS) && port != 0 {
        let key = ServiceKey {
            group: interface.group(),
            port,
            protocol: packet.protocol,
            slot: interface.slot() as u8,
        };
        // SAFETY: the agent replaces values as a whole; a policy number read here is one it wrote.
        #[expect(
            clippy::needless_borrows_for_generic_args,
            reason = "a key by value is copied, on a stack that is short"
        )]
        let policy = unsafe { SERVICES.get(&key) };
        if let Some(policy) = policy {
            return *policy;
        }
    }
    interface.any()
}

/// Where what a policy says is in the policies map.
#[derive(Clone, Copy)]
pub struct Place {
    pub index: u32,
    pub bank: u32,
}

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
        Place { index, bank },
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
