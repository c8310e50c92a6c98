//! What leaves: counted by the service that it comes from, and ended where an egress list denies the
//! destination.

use aya_ebpf::{bindings::TC_ACT_UNSPEC, programs::TcContext};
use enforcer_common::{
    layout::{NO_POLICY, interface_flag, table, table_kind},
    verdict::{Direction, Reason},
};

use crate::{
    access, clock,
    frame::Frame,
    interface::{self, Interface},
    parse::{Packet, Parsed, parse},
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
    // Headers may lie outside the linear part; short packets have fewer bytes than asked for.
    if Frame::of_tc(ctx).len() < HEADERS as usize {
        let wanted = if ctx.len() < HEADERS { ctx.len() } else { HEADERS };
        let _ = ctx.pull_data(wanted);
    }
    let finding = match parse(&Frame::of_tc(ctx)) {
        Ok(Parsed::Ip(packet)) => decide(interface, &packet),
        // What the node itself sends malformed is not for the deny lists to judge.
        Ok(Parsed::Arp) => Finding {
            policy: NO_POLICY,
            reason: Reason::Lifeline,
            shadow: false,
        },
        Ok(Parsed::Other) | Err(_) => Finding {
            policy: NO_POLICY,
            reason: Reason::NotIp,
            shadow: false,
        },
    };
    verdict::tc(finding.conclude(Direction::Egress, bytes))
}

#[inline(always)]
fn decide(interface: Interface, packet: &Packet) -> Finding {
    if interface.has(interface_flag::EGRESS) {
        let list = table(table_kind::EGRESS, interface.slot(), interface.group());
        if let Some(entry) = access::lookup(list, &packet.destination, clock::now_ns()) {
            let shadow = service::is_shadow(interface, entry.policy);
            return Finding {
                policy: entry.policy,
                reason: Reason::EgressDenied,
                shadow,
            };
        }
    }
    let policy = service::find(interface, packet, packet.source_port);
    let reason = if policy == NO_POLICY {
        Reason::NoPolicy
    } else {
        Reason::EgressAllowed
    };
    Finding {
        policy,
        reason,
        shadow: false,
    }
}
