//! Stage 5: connections that the gateway has verified have their identity's own limits, which
//! strangers cannot spend. Those that an operator has revoked are ended before any policy is asked.

use enforcer_common::{
    layout::{Bank, Control, FlowKey, control_flag, policy_flag, traffic},
    verdict::Reason,
};

use crate::{
    limits::check_identity,
    maps::{FLOWS, REVOKED},
    parse::{Packet, protocol, tcp},
    service::Place,
};

/// Whether a packet is of a connection that has been revoked.
#[inline(always)]
pub fn is_revoked(control: &Control, packet: &Packet, now_ns: u64) -> bool {
    if control.flags & control_flag::REVOKED == 0 || !matches!(packet.protocol, protocol::TCP | protocol::UDP)
    {
        return false;
    }
    let key = key(packet);
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "a key by value is copied, on a stack that is short"
    )]
    // SAFETY: only the end of the revocation is read, in one aligned load.
    let ends = unsafe { REVOKED.get(&key) };
    ends.is_some_and(|ends_ns| *ends_ns > now_ns)
}

#[inline(always)]
fn key(packet: &Packet) -> FlowKey {
    FlowKey {
        source: packet.source,
        destination: packet.destination,
        source_port: packet.source_port,
        destination_port: packet.destination_port,
    }
}

/// The verdict on a packet of a verified connection; `None` for all others.
#[inline(always)]
pub fn check(
    control: &Control,
    place: Place,
    bank: &Bank,
    packet: &Packet,
    bytes: u64,
    now_ns: u64,
) -> Option<Reason> {
    if control.flags & control_flag::FLOWS == 0
        || bank.flags & policy_flag::VERIFIED == 0
        || packet.protocol != protocol::TCP
        || packet.later_fragment
        // An established connection sends no SYN; whoever forges one spends no budget.
        || packet.detail & tcp::SYN != 0
    {
        return None;
    }
    let key = key(packet);
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "a key by value is copied, on a stack that is short"
    )]
    // SAFETY: only the number of the identity is read, in one aligned load.
    let identity = unsafe { FLOWS.get(&key) }?.identity;
    Some(check_identity(identity, place, traffic::TCP_OTHER, bytes, now_ns))
}
