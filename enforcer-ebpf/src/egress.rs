//! What leaves: counted by the service that it comes from, and ended where an egress list denies the
//! destination.

use aya_ebpf::{bindings::TC_ACT_UNSPEC, programs::TcContext};
use enforcer_common::{
    layout::{NO_POLICY, control_flag, interface_flag, table, table_kind},
    verdict::{Direction, Reason},
};

use crate::{
    access, clock, events,
    frame::Frame,
    interface::{self, Interface},
    lifeline,
    maps::CONTROL,
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
        Ok(Parsed::Arp) => Finding {
            policy: NO_POLICY,
            reason: Reason::Lifeline,
            shadow: false,
        },
        Ok(Parsed::Other) => Finding {
            policy: NO_POLICY,
            reason: Reason::NotIp,
            shadow: false,
        },
        // What the node itself sends malformed is not for the deny lists to judge.
        Err(_) => Finding {
            policy: NO_POLICY,
            reason: Reason::EgressAllowed,
            shadow: false,
        },
    };
    let conclusion = finding.conclude(Direction::Egress, bytes);
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

#[inline(always)]
fn decide(interface: Interface, packet: &Packet) -> Finding {
    if interface.has(interface_flag::EGRESS) {
        let list = table(table_kind::EGRESS, interface.slot(), interface.group());
        let now_ns = clock::now_ns();
        if let Some(entry) = access::lookup(list, &packet.destination, now_ns)
            && !lapsed(now_ns)
        {
            // Replies to whoever manages the node go out whatever the lists say.
            if lifeline::is_management(&packet.destination, now_ns) {
                return Finding {
                    policy: NO_POLICY,
                    reason: Reason::Management,
                    shadow: false,
                };
            }
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
