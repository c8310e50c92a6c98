//! Stage 5: connections that the gateway has verified have their identity's own limits, which
//! strangers cannot spend. Those that an operator has revoked are ended before any policy is asked.

use aya_ebpf::maps::HashMap;
use enforcer_common::{
    layout::{Bank, Control, FlowKey, control_flag, policy_flag, traffic},
    verdict::Reason,
};

use crate::{
    limits::check_identity,
    maps::{FLOWS, REVOKED},
    parse::{
        Packet,
        address::{address, words},
        protocol, tcp,
    },
    service::Place,
};

/// Whether a packet is of a connection that has been revoked.
#[inline(always)]
pub fn is_revoked(control: &Control, packet: &Packet, now_ns: u64) -> bool {
    if control.flags & control_flag::REVOKED == 0 || !matches!(packet.protocol, protocol::TCP | protocol::UDP)
    {
        return false;
    }
    let [a, b, c, d, ports] = words_of(packet);
    enforcer_revoked(a, b, c, d, ports) > now_ns
}

/// A connection as global functions take it: its key would take up a stack that is short.
#[inline(always)]
fn words_of(packet: &Packet) -> [u64; 5] {
    let ([a, b], [c, d]) = (words(&packet.source), words(&packet.destination));
    let ports = u64::from(packet.source_port) << 16 | u64::from(packet.destination_port);
    [a, b, c, d, ports]
}

/// What `map` has of a connection, as [`words_of`] gives it.
#[inline(always)]
fn find<V>(map: &'static HashMap<FlowKey, V>, [a, b, c, d, ports]: [u64; 5]) -> Option<&'static V> {
    let key = FlowKey {
        source: address([a, b]),
        destination: address([c, d]),
        source_port: (ports >> 16) as u16,
        destination_port: ports as u16,
    };
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "a key by value is copied, on a stack that is short"
    )]
    // SAFETY: callers read one field, in one aligned load.
    unsafe {
        map.get(&key)
    }
}

/// When the revocation of a connection ends; zero if there is none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enforcer_revoked(a: u64, b: u64, c: u64, d: u64, ports: u64) -> u64 {
    find(&REVOKED, [a, b, c, d, ports]).copied().unwrap_or(0)
}

/// One more than the number of the identity behind a verified connection; zero if it is none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enforcer_identity(a: u64, b: u64, c: u64, d: u64, ports: u64) -> u64 {
    find(&FLOWS, [a, b, c, d, ports]).map_or(0, |flow| u64::from(flow.identity) + 1)
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
    let identity = identity(control, bank, packet)?;
    Some(check_identity(identity, place, traffic::TCP_OTHER, bytes, now_ns))
}

/// The identity behind a packet of a verified connection that has a budget by what a policy says.
#[inline(always)]
pub fn identity(control: &Control, bank: &Bank, packet: &Packet) -> Option<u32> {
    if control.flags & control_flag::FLOWS == 0
        || bank.flags & policy_flag::VERIFIED == 0
        || packet.protocol != protocol::TCP
        || packet.later_fragment
        // An established connection sends no SYN; whoever forges one spends no budget.
        || packet.detail & tcp::SYN != 0
    {
        return None;
    }
    let [a, b, c, d, ports] = words_of(packet);
    enforcer_identity(a, b, c, d, ports)
        .checked_sub(1)
        .map(|identity| identity as u32)
}
