//! Policies in shadow, where others enforce: what they would have done is counted by counters of their own, and decides
//! nothing. What they write, no policy that enforces reads.

use enforcer_common::{
    layout::policy_flag,
    verdict::{Direction, Reason},
};

use super::settled;
use crate::{
    clock,
    interface::{self, Interface},
    limits::{self, Charge},
    maps::CONTROL,
    recent, scratch, service, syn, udp, verdict,
};

/// Asks the policy in shadow that the packet in [`scratch`] would be under if it enforced. SYN defence is not tried:
/// whether a listener answers SYNs is not one policy's affair.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn enforcer_tried(index: u64, bytes: u64, now_ns: u64) -> u64 {
    let (Some(control), Some(packet), Some(entry)) =
        (CONTROL.get(0), scratch::get(), interface::entry(index as u32))
    else {
        return 0;
    };
    let interface = Interface::of(entry);
    let policy = service::tried(entry, &packet, packet.destination_port);
    let Some((place, bank)) = service::bank(interface, policy) else {
        return 0;
    };
    let now_ns = if bank.flags & policy_flag::EXACT_TIME != 0 {
        clock::now_ns()
    } else {
        now_ns
    };
    let settled = settled(control, interface, policy, (place, bank), &packet, bytes, now_ns);
    let reason = match settled {
        Some((reason, _)) => reason,
        None => {
            let flow = udp::Flow::of(bank, &packet, now_ns, control.zero);
            let handshake = syn::examine(
                syn::Examined::Nothing,
                control.zero,
                bank,
                policy,
                &packet,
                flow.is_new(),
            );
            let charge = Charge {
                interface,
                packet: &packet,
                bytes,
                now_ns,
                handshake,
            };
            let mut reason = Reason::AgentGone;
            if !super::is_gone(control, now_ns) {
                reason = limits::check(&charge, place, bank);
                if reason.drops() {
                    let reserved = recent::check(control, place, bank, &packet, now_ns);
                    reason = reserved.unwrap_or(reason);
                }
            }
            if !reason.drops() {
                flow.remember(now_ns);
            }
            reason
        }
    };
    verdict::count_tried(Direction::Ingress, policy, reason, bytes);
    0
}
