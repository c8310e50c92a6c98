//! What arrives and is not IP, or cannot be parsed to its end. A global function: few packets come here.

use enforcer_common::{
    layout::{NO_POLICY, control_flag, interface_flag, policy_flag, table, table_kind},
    verdict::{Direction, Reason},
};

use super::denied;
use crate::{
    access,
    interface::{self, Interface},
    lifeline,
    maps::CONTROL,
    parse::reading::{self, Reading},
    scratch, service,
    verdict::{self, Finding},
};

/// Decides about a frame that has been read to be no packet, as a [`verdict::Conclusion`]. `index` is the interface's.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn enforcer_unread(interface: u64, reading: u64, bytes: u64, now_ns: u64, index: u64) -> u64 {
    let interface = Interface::from_word(interface);
    let reading = Reading::from(reading);
    let finding = match reading.kind() {
        reading::ARP => Finding::pass(NO_POLICY, Reason::Lifeline),
        reading::OPAQUE => opaque(index as u32, Direction::Ingress, bytes)
            .unwrap_or(Finding::pass(NO_POLICY, Reason::Opaque)),
        reading::LINK_CONTROL | reading::OTHER => Finding::pass(NO_POLICY, Reason::NotIp),
        kind => {
            let reason = reading.reason();
            // A source that cannot be is nobody's.
            let named = kind == reading::MISSHAPEN && !matches!(reason, Reason::Martian);
            let by_source = if named {
                by_source(interface, reason, bytes, now_ns)
            } else {
                None
            };
            if interface.has(interface_flag::MIXED) {
                count_tried(index as u32, reason, bytes);
            }
            by_source.unwrap_or(Finding {
                policy: interface.base(),
                reason,
                shadow: service::is_shadow(interface, interface.base()),
                resets: 0,
            })
        }
    };
    finding.conclude(Direction::Ingress).number()
}

/// Where a policy drops what carries IP by another device.
#[inline(always)]
pub fn opaque(index: u32, direction: Direction, bytes: u64) -> Option<Finding> {
    let entry = interface::entry(index)?;
    if entry.tried_opaque < NO_POLICY {
        verdict::count_tried(direction, entry.tried_opaque, Reason::OpaqueDenied, bytes);
    }
    (entry.opaque < NO_POLICY).then_some(Finding {
        policy: entry.opaque,
        reason: Reason::OpaqueDenied,
        shadow: entry.flags & interface_flag::SHADOW != 0,
        resets: 0,
    })
}

/// What is decided by the source alone, of a packet in [`scratch`] whose rest cannot be parsed.
#[inline(always)]
fn by_source(interface: Interface, reason: Reason, bytes: u64, now_ns: u64) -> Option<Finding> {
    let (control, packet) = (CONTROL.get(0)?, scratch::get()?);
    // What contradicts itself is let in for nobody.
    let may_pass = !matches!(reason, Reason::Malformed);
    if may_pass
        && control.flags & control_flag::MANAGEMENT != 0
        && lifeline::is_management(&packet.source, now_ns)
    {
        return Some(Finding::pass(NO_POLICY, Reason::Management));
    }
    if let Some(finding) = denied(control, interface, &packet.source, bytes, now_ns) {
        return Some(finding);
    }
    let base = interface.base();
    let (_, bank) = service::bank(interface, base)?;
    // Where another policy decides about some ports, its deny list may name whom the base's allows.
    if !may_pass || bank.flags & policy_flag::ACCESS == 0 || interface.has(interface_flag::BASE_AND_PORTS) {
        return None;
    }
    let list = table(table_kind::INGRESS, interface.slot(), base);
    let entry = access::lookup(list, &packet.source, now_ns)?;
    // Else it is dropped for what is wrong with it, denied or not.
    (entry.reason == Reason::Allowed as u32).then_some(Finding::pass(base, Reason::Allowed))
}

/// What the policy in shadow would have done that would be the base.
#[inline(always)]
fn count_tried(index: u32, reason: Reason, bytes: u64) {
    if let Some(entry) = interface::entry(index)
        && entry.tried_base < NO_POLICY
    {
        verdict::count_tried(Direction::Ingress, entry.tried_base, reason, bytes);
    }
}
