//! What arrives: the stages in order.

mod tried;
mod unread;

pub use unread::opaque;

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use enforcer_common::{
    layout::{
        Address, Bank, Control, NO_POLICY, access_flag, control_flag, interface_flag, policy_flag, table,
        table_kind,
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
    parse::{
        self, Packet,
        address::{address, words},
        reading::{self, Reading, enforcer_read_xdp},
    },
    recent, reset, scratch,
    service::{self, Place},
    syn, udp,
    verdict::{self, Conclusion, Finding},
};

/// What has passed is remembered for its reply.
const REMEMBERS: u32 = interface_flag::EGRESS_MEMORY | interface_flag::TRIED_MEMORY;

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
    let (mut conclusion, resets) = examine(ctx, control, interface, &frame, bytes, now_ns);
    if interface.has(interface_flag::MIXED) {
        tried::count(ctx.ingress_ifindex() as u64, bytes, now_ns);
    }
    let told = resets != 0
        && matches!(conclusion.verdict, Verdict::Drop)
        // An answer begins with an Ethernet header.
        && !interface.has(interface_flag::BARE)
        && reset::enforcer_reset_due(ctx.ctx, now_ns) != 0;
    // Before the answer takes the packet's place.
    if conclusion.is_event() {
        let due = events::due(now_ns);
        if due != 0 {
            let place = if told {
                conclusion.told_to_sender().place
            } else {
                conclusion.place
            };
            let reading = enforcer_read_xdp(ctx.ctx, interface.bare());
            events::enforcer_tell_ingress(ctx.ctx, now_ns, u64::from(place), due, reading);
        }
    }
    if told && reset::enforcer_reset(ctx.ctx) != 0 {
        conclusion = conclusion.told_to_sender();
    }
    conclusion.count(bytes);
    if interface.has(REMEMBERS) && conclusion.passes() {
        flow_memory::remember_arrival(ctx.ctx, interface, now_ns);
    }
    verdict::xdp(&conclusion)
}

/// What becomes of a packet, and 1 if its sender is told of a drop.
#[inline(always)]
fn examine(
    ctx: &XdpContext,
    control: &Control,
    interface: Interface,
    frame: &Frame,
    bytes: u64,
    now_ns: u64,
) -> (Conclusion, u64) {
    let plain = if interface.has(interface_flag::BARE) {
        None
    } else {
        parse::plain(frame)
    };
    let packet = match plain {
        Some(packet) => packet,
        None => {
            let number = enforcer_read_xdp(ctx.ctx, interface.bare());
            match scratch::get() {
                Some(packet) if Reading::from(number).kind() == reading::IP => packet,
                _ => {
                    let index = ctx.ingress_ifindex() as u64;
                    let number = unread::enforcer_unread(interface.word(), number, bytes, now_ns, index);
                    return (Conclusion::from_number(number), 0);
                }
            }
        }
    };
    let packet = packet.blurred(control.zero);
    let finding = decide(ctx, control, interface, &packet, bytes, now_ns);
    let resets = finding.resets;
    (finding.conclude(Direction::Ingress), resets)
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
    if let Some(finding) = denied(control, interface, &packet.source, bytes, now_ns) {
        return finding;
    }
    if flow::is_revoked(control, packet, now_ns) && !lapsed(control, Reason::Revoked as u32, now_ns) {
        return Finding {
            policy: NO_POLICY,
            reason: Reason::Revoked,
            shadow: false,
            resets: 1,
        };
    }
    if interface.has(interface_flag::MIXED) {
        tried::keep(packet);
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
    let place = place.whole(control.zero);
    let (reason, listed) = match settled {
        Some(settled) => settled,
        None => {
            let flow = udp::Flow::of(bank, packet, now_ns, control.zero);
            // An answer begins with an Ethernet header.
            let is_examined = !interface.has(interface_flag::BARE);
            let is_new = flow.is_new();
            let handshake = syn::examine(ctx.ctx, is_examined, bank, place.policy(), packet);
            let handshake = syn::Handshake::new(handshake, packet, is_new, control.zero);
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
        policy: place.policy(),
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

/// What is denied at run time. An operator's word holds whatever mode policies are in. What the agent has denied of its
/// own accord is dropped, at every port, where some policy of the interface enforces; where none does it is counted, and
/// the evaluation goes on.
#[inline(always)]
fn denied(
    control: &Control,
    interface: Interface,
    source: &Address,
    bytes: u64,
    now_ns: u64,
) -> Option<Finding> {
    if control.flags & (control_flag::OPERATOR | control_flag::AUTOMATIC) == 0 || !access::may_hold(source) {
        return None;
    }
    let [high, low] = words(source);
    let answer = enforcer_denied(interface.word(), high, low, now_ns, bytes);
    (answer & DENIED != 0).then_some(Finding {
        policy: NO_POLICY,
        reason: if answer & BY_OPERATOR != 0 {
            Reason::DeniedByOperator
        } else {
            Reason::DeniedForAuthentication
        },
        shadow: false,
        resets: answer & TOLD,
    })
}

/// Bits of an answer: its sender is told; it is dropped; an operator has said so.
const TOLD: u64 = 1;
const DENIED: u64 = 2;
const BY_OPERATOR: u64 = 4;

/// Whether a source, given in two words, is denied at run time. Neither list hides the other.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enforcer_denied(interface: u64, high: u64, low: u64, now_ns: u64, bytes: u64) -> u64 {
    let Some(control) = CONTROL.get(0) else {
        return 0;
    };
    let source = address([high, low]);
    let told = |flags: u16| u64::from(flags & access_flag::RESET) * TOLD;
    if control.flags & control_flag::OPERATOR != 0
        && let Some(entry) = access::lookup(table(table_kind::OPERATOR, 0, 0), &source, now_ns)
        && !lapsed(control, entry.reason, now_ns)
    {
        return DENIED | BY_OPERATOR | told(entry.flags);
    }
    if control.flags & control_flag::AUTOMATIC == 0 || is_gone(control, now_ns) {
        return 0;
    }
    let Some(entry) = access::lookup(table(table_kind::AUTOMATIC, 0, 0), &source, now_ns) else {
        return 0;
    };
    if Interface::from_word(interface).has(interface_flag::SHADOW) {
        let reason = Reason::DeniedForAuthentication;
        verdict::count_tried(Direction::Ingress, NO_POLICY, reason, bytes);
        return 0;
    }
    DENIED | told(entry.flags)
}
