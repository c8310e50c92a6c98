//! What arrives: the stages in order.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use enforcer_common::{
    layout::{Bank, Control, NO_POLICY, control_flag, policy_flag, table, table_kind},
    verdict::{Direction, Reason},
};

use crate::{
    access, clock, flow,
    frame::Frame,
    interface::{self, Interface},
    lifeline,
    limits::{self, Charge},
    maps::CONTROL,
    parse::{Packet, Parsed, parse},
    service::{self, Place},
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
    verdict::xdp(examine(control, interface, &frame, bytes).conclude(Direction::Ingress, bytes))
}

#[inline(always)]
fn examine(control: &Control, interface: Interface, frame: &Frame, bytes: u64) -> Finding {
    match parse(frame) {
        Ok(Parsed::Ip(packet)) => decide(control, interface, &packet.blurred(control.zero), bytes),
        Ok(Parsed::Arp) => pass(NO_POLICY, Reason::Lifeline),
        Ok(Parsed::Other) => pass(NO_POLICY, Reason::NotIp),
        Err(reason) => Finding {
            policy: interface.base(),
            reason,
            shadow: service::is_shadow(interface, interface.base()),
        },
    }
}

#[inline(always)]
fn decide(control: &Control, interface: Interface, packet: &Packet, bytes: u64) -> Finding {
    let now_ns = clock::now_ns();
    if let Some(reason) = lifeline::check(control, packet, now_ns) {
        return pass(NO_POLICY, reason);
    }
    if control.flags & control_flag::RUNTIME != 0
        && let Some(entry) = access::lookup(table(table_kind::RUNTIME, 0, 0), &packet.source, now_ns)
    {
        return Finding {
            policy: NO_POLICY,
            reason: denial(entry.reason),
            shadow: false,
        };
    }
    let policy = service::find(interface, packet, packet.destination_port);
    let Some((place, bank)) = service::bank(interface, policy) else {
        return pass(NO_POLICY, Reason::NoPolicy);
    };
    let charge = Charge {
        interface,
        packet,
        bytes,
        now_ns,
    };
    let reason = under(control, policy, place, bank, &charge);
    Finding {
        policy,
        reason,
        shadow: bank.flags & policy_flag::SHADOW != 0,
    }
}

/// What a policy says of a packet.
#[inline(always)]
fn under(control: &Control, policy: u32, place: Place, bank: &Bank, charge: &Charge<'_>) -> Reason {
    let Charge {
        interface,
        packet,
        now_ns,
        ..
    } = *charge;
    if bank.flags & policy_flag::ACCESS != 0 {
        let list = table(table_kind::INGRESS, interface.slot(), policy);
        if let Some(entry) = access::lookup(list, &packet.source, now_ns) {
            return if entry.reason == Reason::Allowed as u32 {
                Reason::Allowed
            } else {
                Reason::Denied
            };
        }
    }
    if let Some(reason) = flow::check(control, bank, packet, now_ns) {
        return reason;
    }
    limits::check(charge, place, bank)
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

#[inline(always)]
fn pass(policy: u32, reason: Reason) -> Finding {
    Finding {
        policy,
        reason,
        shadow: false,
    }
}
