//! What leaves: counted by the service that it comes from, and ended where an egress list denies the
//! destination.

use aya_ebpf::{bindings::TC_ACT_UNSPEC, programs::TcContext};
use enforcer_common::{
    layout::{Address, NO_POLICY, control_flag, interface_flag, table, table_kind},
    verdict::{Direction, Reason},
};

use crate::{
    access, clock, events,
    frame::Frame,
    interface::{self, Interface},
    lifeline,
    maps::CONTROL,
    parse::{Packet, Parsed, destination, parse},
    service,
    verdict::{self, Finding},
};

/// Enough for Ethernet, two tags, IPv6 with an extension header, and TCP.
const HEADERS: u32 = 128;

#[inline(always)]
pub fn program(ctx: &TcContext) -> i32 {
    // SAFETY: the context is valid while the program runs.
    let index = unsafe { (*ctx.skb.skb).ifindex };
    let Some(interface) = interface::find(index) else {
        return TC_ACT_UNSPEC;
    };
    let bytes = u64::from(ctx.len());
    // Headers may lie outside the part that can be read; short packets have fewer bytes than asked for.
    if Frame::of_tc(ctx).readable() < HEADERS as usize {
        let wanted = if ctx.len() < HEADERS { ctx.len() } else { HEADERS };
        let _ = ctx.pull_data(wanted);
    }
    let frame = Frame::of_tc(ctx);
    let finding = match parse(&frame) {
        Ok(Parsed::Ip(packet)) => {
            denied(interface, &packet.destination).unwrap_or_else(|| counted(interface, &packet))
        }
        Ok(Parsed::Arp) => Finding::pass(NO_POLICY, Reason::Lifeline),
        Ok(Parsed::Other) => Finding::pass(NO_POLICY, Reason::NotIp),
        // What the node sends malformed, or sends on, is judged by where it goes: nobody gets past a list by
        // what a parser does not understand.
        Err(_) => destination(&frame)
            .and_then(|destination| denied(interface, &destination))
            .unwrap_or(Finding::pass(NO_POLICY, Reason::EgressAllowed)),
    };
    let conclusion = finding.conclude(Direction::Egress);
    conclusion.count(bytes);
    if conclusion.is_event() {
        let now_ns = clock::now_ns();
        let due = events::due(now_ns);
        if due != 0 {
            events::enforcer_tell_egress(ctx.skb.skb, now_ns, u64::from(conclusion.place), due);
        }
    }
    verdict::tc(&conclusion)
}

/// Whether the lists no longer hold because the agent is gone, where that is configured.
#[inline(always)]
fn lapsed(now_ns: u64) -> bool {
    CONTROL.get(0).is_some_and(|control| {
        control.flags & control_flag::DENIALS_LAPSE != 0 && now_ns > control.alive_until_ns
    })
}

/// What the deny lists say of a destination.
#[inline(always)]
fn denied(interface: Interface, destination: &Address) -> Option<Finding> {
    if !interface.has(interface_flag::EGRESS) {
        return None;
    }
    let list = table(table_kind::EGRESS, interface.slot(), interface.group());
    let now_ns = clock::now_ns();
    let entry = access::lookup(list, destination, now_ns)?;
    if lapsed(now_ns) {
        return None;
    }
    // Replies to whoever manages the node go out whatever the lists say.
    if lifeline::is_management(destination, now_ns) {
        return Some(Finding::pass(NO_POLICY, Reason::Management));
    }
    Some(Finding {
        policy: entry.policy,
        reason: Reason::EgressDenied,
        shadow: service::is_shadow(interface, entry.policy),
        resets: 0,
    })
}

/// What no list denies is counted by the service that it comes from.
#[inline(always)]
fn counted(interface: Interface, packet: &Packet) -> Finding {
    match service::find(interface, packet, packet.source_port) {
        NO_POLICY => Finding::pass(NO_POLICY, Reason::NoPolicy),
        policy => Finding::pass(policy, Reason::EgressAllowed),
    }
}
