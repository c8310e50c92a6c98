//! Stage 2: what must get through whatever the policies say, so that no mistake cuts a node off.

use enforcer_common::{
    layout::{Address, Control, control_flag, table, table_kind},
    verdict::Reason,
};

use crate::{
    access,
    parse::{Packet, address::words, protocol},
};

/// Router solicitation to redirect (RFC 4861, 4).
const NEIGHBOUR_DISCOVERY: core::ops::RangeInclusive<u8> = 133..=137;

/// The reason to let the packet through at once, if there is one.
#[inline(always)]
pub fn check(control: &Control, packet: &Packet, now_ns: u64) -> Option<Reason> {
    // Genuine neighbour discovery has come through no router (RFC 4861, 3.1) and is not fragmented
    // (RFC 6980): so that nobody from afar passes under its name.
    if is_neighbour_discovery(packet) {
        return Some(Reason::Lifeline);
    }
    if control.flags & control_flag::MANAGEMENT != 0 && is_management(&packet.source, now_ns) {
        return Some(Reason::Management);
    }
    None
}

#[inline(always)]
fn is_neighbour_discovery(packet: &Packet) -> bool {
    packet.protocol == protocol::ICMPV6
        && packet.hop_limit == 255
        && !packet.fragment
        && NEIGHBOUR_DISCOVERY.contains(&packet.detail)
}

/// Whether a packet must leave, whatever the rules say: neighbour discovery, and what makes switches carry
/// it (RFC 2710, 3; RFC 3810, 5). Only to addresses of the link, from which no router sends it on: to others
/// it leaves as an answer, or not.
#[inline(always)]
pub fn must_leave(packet: &Packet) -> bool {
    let listeners = packet.protocol == protocol::ICMPV6
        && packet.hop_limit == 1
        && !packet.fragment
        && matches!(packet.detail, 130..=132 | 143);
    (is_neighbour_discovery(packet) || listeners) && is_of_the_link(&packet.destination)
}

/// Link-local unicast and multicast (RFC 4291, 2.5.6 and 2.7).
#[inline(always)]
fn is_of_the_link(address: &Address) -> bool {
    let first = u16::from_be(words(address)[0] as u16);
    first & 0xffc0 == 0xfe80 || first & 0xff0f == 0xff02
}

/// Whether an address is on the management list.
#[inline(always)]
pub fn is_management(address: &Address, now_ns: u64) -> bool {
    access::lookup(table(table_kind::MANAGEMENT, 0, 0), address, now_ns).is_some()
}
