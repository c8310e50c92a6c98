//! What arrives: the stages in order.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use enforcer_common::{
    layout::{Bank, Control, NO_POLICY, control_flag, interface_flag, policy_flag, table, table_kind},
    verdict::{Direction, Reason},
};

use crate::{
    access, clock, events, flow, flow_memory,
    frame::Frame,
    interface::{self, Interface},
    lifeline,
    limits::{self, Charge},
    maps::CONTROL,
    parse::{Packet, Parsed, parse},
    recent,
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
    let conclusion =
        examine(ctx, control, interface, &frame, bytes, now_ns).conclude(Direction::Ingress, bytes);
    if interface.has(interface_flag::EGRESS_MEMORY) && conclusion.passes() {
        flow_memory::enforcer_arrived(ctx.ctx, now_ns);
    }
    if conclusion.is_event() {
        let due = events::due(now_ns);
        if due != 0 {
            events::enforcer_tell_ingress(ctx.ctx, now_ns, u64::from(conclusion.place), due);
        }
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
    let reason = match settled(control, interface, policy, (place, bank), packet, bytes, now_ns) {
        Some(reason) => reason,
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
            reason
        }
    };
    Finding {
        policy,
        reason,
        shadow: bank.flags & policy_flag::SHADOW != 0,
    }
}

/// What a policy says of a packet before its limits are asked.
#[inline(always)]
fn settled(
    control: &Control,
    interface: Interface,
    policy: u32,
    (place, bank): (Place, &Bank),
    packet: &Packet,
    bytes: u64,
    now_ns: u64,
) -> Option<Reason> {
    if bank.flags & policy_flag::ACCESS != 0 {
        let list = table(table_kind::INGRESS, interface.slot(), policy);
        if let Some(entry) = access::lookup(list, &packet.source, now_ns)
            && !lapsed(control, entry.reason, now_ns)
        {
            return Some(if entry.reason == Reason::Allowed as u32 {
                Reason::Allowed
            } else {
                Reason::Denied
            });
        }
    }
    // After this nothing is decided but by SYN defence and limits, which need somebody who watches them.
    if now_ns > control.alive_until_ns {
        return Some(Reason::AgentGone);
    }
    flow::check(control, place, bank, packet, bytes, now_ns)
}

/// What SYN defence and limits say.
#[inline(always)]
fn limited(ctx: &XdpContext, control: &Control, place: Place, bank: &Bank, charge: &Charge<'_>) -> Reason {
    if charge.handshake.is_forged() {
        return Reason::SynCookieInvalid;
    }
    let mut reason = limits::check(charge, place, bank);
    if reason.drops()
        && let Some(reserved) = recent::check(control, place, bank, charge.packet, charge.now_ns)
    {
        reason = reserved;
    }
    let shadow = bank.flags & policy_flag::SHADOW != 0;
    syn::conclude(ctx.ctx, charge.handshake, reason, shadow)
}

/// Whether an entry of a list no longer holds because the agent is gone: what it has denied of its own
/// accord, and all denials where that is configured.
#[inline(always)]
fn lapsed(control: &Control, reason: u32, now_ns: u64) -> bool {
    now_ns > control.alive_until_ns
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
