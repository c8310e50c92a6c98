//! Stage 2: what must get through whatever the policies say, so that no mistake cuts a node off.

use enforcer_common::{
    layout::{Address, Control, control_flag, table, table_kind},
    verdict::Reason,
};

use crate::{
    access,
    parse::{Packet, protocol},
};

/// Router solicitation to redirect (RFC 4861, 4).
const NEIGHBOUR_DISCOVERY: core::ops::RangeInclusive<u8> = 133..=137;

/// The reason to let the packet through at once, if there is one.
#[inline(always)]
pub fn check(control: &Control, packet: &Packet, now_ns: u64) -> Option<Reason> {
    // Genuine neighbour discovery has come through no router (RFC 4861, 3.1) and is not fragmented
    // (RFC 6980): so that nobody from afar passes under its name.
    if packet.protocol == protocol::ICMPV6
        && packet.hop_limit == 255
        && !packet.fragment
        && NEIGHBOUR_DISCOVERY.contains(&packet.detail)
    {
        return Some(Reason::Lifeline);
    }
    if control.flags & control_flag::MANAGEMENT != 0 && is_management(&packet.source, now_ns) {
        return Some(Reason::Management);
    }
    None
}

/// Whether an address is on the management list.
#[inline(always)]
pub fn is_management(address: &Address, now_ns: u64) -> bool {
    access::lookup(table(table_kind::MANAGEMENT, 0, 0), address, now_ns).is_some()
}
