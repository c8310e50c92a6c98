//! What arrives: the stages in order.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use enforcer_common::{
    layout::{
        Bank, Control, NO_POLICY, access_flag, control_flag, interface_flag, policy_flag, table, table_kind,
    },
    verdict::{Direction, Reason, Verdict},
};

use crate::{
    access, clock, events, flow, flow_memory,
    frame::Frame,
    interface::{self, Interface},
    lifeline,
    limits::{self, Charge},
    maps::CONTROL,
    parse::{Packet, Parsed, parse},
    recent, reset,
    service::{self, Place},
    syn, udp,
    verdict::{self, Finding},
};

#[inline(always)]
pub fn program(ctx: &XdpContext) -> u32 {
    let index = ctx.ingress_ifindex() as u32;
    let Some(interface) = interface::find(index) else {
        return xdp_action::XDP_PASS;
    };
    let Some(control) = CONTROL.get(0) else {
        return xdp_action::XDP_PASS;
    };
    let frame = Frame::of_xdp(ctx);
    let bytes = frame.len() as u64;
    let now_ns = clock::tick_ns();
    let finding = examine(ctx, control, interface, &frame, bytes, now_ns);
    let resets = finding.resets;
    let mut conclusion = finding.conclude(Direction::Ingress);
    let told = resets != 0
        && matches!(conclusion.verdict, Verdict::Drop)
        && reset::enforcer_reset_due(ctx.ctx, now_ns) != 0;
    let dropped = conclusion;
    if told {
        conclusion = dropped.told_to_sender();
    }
    // Before the answer takes the packet's place.
    if conclusion.is_event() {
        let due = events::due(now_ns);
        if due != 0 {
            events::enforcer_tell_ingress(ctx.ctx, now_ns, u64::from(conclusion.place), due);
        }
    }
    if told && reset::enforcer_reset(ctx.ctx) == 0 {
        conclusion = dropped;
    }
    conclusion.count(bytes);
    if interface.has(interface_flag::EGRESS_MEMORY) && conclusion.passes() {
        flow_memory::enforcer_arrived(ctx.ctx, now_ns);
    }
    verdict::xdp(&conclusion)
}

#[inline(always)]
fn examine(
    ctx: &XdpContext,
    control: &Control,
    interface: Interface,
    frame: &Frame,
    bytes: u64,
    now_ns: u64,
) -> Finding {
    match parse(frame) {
        Ok(Parsed::Ip(packet)) => decide(
            ctx,
            control,
            interface,
            &packet.blurred(control.zero),
            bytes,
            now_ns,
        ),
        Ok(Parsed::Arp) => Finding::pass(NO_POLICY, Reason::Lifeline),
        Ok(Parsed::Other(_)) => Finding::pass(NO_POLICY, Reason::NotIp),
        Err(reason) => Finding {
            policy: interface.base(),
            reason,
            shadow: service::is_shadow(interface, interface.base()),
            resets: 0,
        },
    }
}

#[inline(always)]
fn decide(
    ctx: &XdpContext,
    control: &Control,
    interface: Interface,
    packet: &Packet,
    bytes: u64,
    now_ns: u64,
) -> Finding {
    if let Some(reason) = lifeline::check(control, packet, now_ns) {
        return Finding::pass(NO_POLICY, reason);
    }
    if control.flags & control_flag::RUNTIME != 0
        && let Some(entry) = access::lookup(table(table_kind::RUNTIME, 0, 0), &packet.source, now_ns)
        && !lapsed(control, entry.reason, now_ns)
    {
        let reason = denial(entry.reason);
        // An operator's word holds; what follows from requests is enforced where policies are.
        let shadow = matches!(reason, Reason::DeniedForAuthentication)
            && service::is_shadow(interface, interface.base());
        return Finding {
            policy: NO_POLICY,
            reason,
            shadow,
            resets: u64::from(entry.flags & access_flag::RESET),
        };
    }
    if flow::is_revoked(control, packet, now_ns) && !lapsed(control, Reason::Revoked as u32, now_ns) {
        return Finding {
            policy: NO_POLICY,
            reason: Reason::Revoked,
            shadow: false,
            resets: 1,
        };
    }
    let policy = service::find(interface, packet, packet.destination_port);
    let Some((place, bank)) = service::bank(interface, policy) else {
        return Finding::pass(NO_POLICY, Reason::NoPolicy);
    };
    let now_ns = if bank.flags & policy_flag::EXACT_TIME != 0 {
        clock::now_ns()
    } else {
        now_ns
    };
    let settled = settled(control, interface, policy, (place, bank), packet, bytes, now_ns);
    let (reason, listed) = match settled {
        Some(settled) => settled,
        None => {
            let flow = udp::Flow::of(bank, packet, now_ns, control.zero);
            let handshake = syn::examine(ctx.ctx, control.zero, bank, policy, packet, flow.is_new());
            let charge = Charge {
                interface,
                packet,
                bytes,
                now_ns,
                handshake,
            };
            let reason = limited(ctx, control, place, bank, &charge);
            if !reason.drops() {
                flow.remember(now_ns);
            }
            (reason, 0)
        }
    };
    Finding {
        policy,
        reason,
        shadow: bank.flags & policy_flag::SHADOW != 0,
        resets: listed | bank.resets >> (reason as u32 & 63) & 1,
    }
}

/// What a policy says of a packet before its limits are asked, and 1 if its list says that the sender is told.
#[inline(always)]
fn settled(
    control: &Control,
    interface: Interface,
    policy: u32,
    (place, bank): (Place, &Bank),
    packet: &Packet,
    bytes: u64,
    now_ns: u64,
) -> Option<(Reason, u64)> {
    if bank.flags & policy_flag::ACCESS != 0 {
        let list = table(table_kind::INGRESS, interface.slot(), policy);
        if let Some(entry) = access::lookup(list, &packet.source, now_ns)
            && !lapsed(control, entry.reason, now_ns)
        {
            let reason = if entry.reason == Reason::Allowed as u32 {
                Reason::Allowed
            } else {
                Reason::Denied
            };
            return Some((reason, u64::from(entry.flags & access_flag::RESET)));
        }
    }
    // After this nothing is decided but by SYN defence and limits, which need somebody who watches them.
    if is_gone(control, now_ns) {
        return if cookies_hold(control, bank) {
            None
        } else {
            Some((Reason::AgentGone, 0))
        };
    }
    flow::check(control, place, bank, packet, bytes, now_ns).map(|reason| (reason, 0))
}

/// What SYN defence and limits say.
#[inline(always)]
fn limited(ctx: &XdpContext, control: &Control, place: Place, bank: &Bank, charge: &Charge<'_>) -> Reason {
    if charge.handshake.is_forged() {
        return Reason::SynCookieInvalid;
    }
    // SYN defence may outlive limits.
    let reason = if is_gone(control, charge.now_ns) {
        Reason::AgentGone
    } else {
        let reason = limits::check(charge, place, bank);
        let reserved = if reason.drops() {
            recent::check(control, place, bank, charge.packet, charge.now_ns)
        } else {
            None
        };
        reserved.unwrap_or(reason)
    };
    let shadow = bank.flags & policy_flag::SHADOW != 0;
    syn::conclude(ctx.ctx, charge.handshake, reason, shadow)
}

/// Whether nothing has been heard of the agent for too long.
#[inline(always)]
fn is_gone(control: &Control, now_ns: u64) -> bool {
    now_ns > control.alive_until_ns
}

/// Whether SYNs go on being answered without the agent.
#[inline(always)]
fn cookies_hold(control: &Control, bank: &Bank) -> bool {
    control.flags & control_flag::COOKIES_HOLD != 0 && bank.flags & policy_flag::SYN_ANSWERED != 0
}

/// Whether an entry of a list no longer holds because the agent is gone: what it has denied of its own
/// accord, and all denials where that is configured.
#[inline(always)]
fn lapsed(control: &Control, reason: u32, now_ns: u64) -> bool {
    is_gone(control, now_ns)
        && (reason == Reason::DeniedForAuthentication as u32
            || (control.flags & control_flag::DENIALS_LAPSE != 0 && reason != Reason::Allowed as u32))
}

/// Why the agent has denied somebody.
#[inline(always)]
fn denial(reason: u32) -> Reason {
    if reason == Reason::DeniedForAuthentication as u32 {
        Reason::DeniedForAuthentication
    } else {
        Reason::DeniedByOperator
    }
}
