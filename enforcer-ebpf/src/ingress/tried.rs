//! Policies in shadow, where others enforce: what they would have done is counted by counters of their own, and decides
//! nothing. What they write, no policy that enforces reads.
//!
//! The limits are asked between two global functions, and not by one of them: the stack is short.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use enforcer_common::{
    layout::{Control, policy_flag, table, table_kind, traffic},
    verdict::{Direction, Reason},
};

use super::{is_gone, lapsed};
use crate::{
    access,
    atomic::Cell,
    clock, flow,
    interface::{self, Interface},
    limits::{self, Charge, enforcer_limits},
    maps::CONTROL,
    parse::{Packet, address::words},
    recent, scratch,
    service::{self, Place},
    syn, udp, verdict,
};

/// What is asked of the limits, from the first function to the second: the question, whose it is, when, the policy's
/// place and number, what is asked, and a flow of UDP. The last is 1 while a packet waits to be asked about.
const WORDS: usize = 8;

/// One element.
#[map]
static TRIAL: PerCpuArray<[u64; WORDS]> = PerCpuArray::with_max_entries(1, 0);

/// All is said.
const SAID: u64 = 0;
/// Limits are to be asked.
const ASKS: u64 = 1;

/// In the word of the policy: above its number, its place, and whether an identity's limits are asked.
const PLACE: u32 = 8;
const OF_IDENTITY: u64 = 1 << 33;

/// Keeps a packet for [`count`]: one that policies decide about, in [`scratch`].
#[inline(always)]
pub fn keep(packet: &Packet) {
    let [a, b, c, d, rest] = scratch::packed(packet);
    enforcer_keep(a, b, c, d, rest);
}

/// As [`keep`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enforcer_keep(a: u64, b: u64, c: u64, d: u64, rest: u64) -> u64 {
    scratch::put_words([a, b, c, d, rest]);
    if let Some([.., waits]) = cells() {
        waits.put_local(1);
    }
    0
}

/// Asks the policy in shadow that the packet which waits would be under if it enforced, and counts what it says.
#[inline(always)]
pub fn count(index: u64, bytes: u64, now_ns: u64) {
    if enforcer_tried(index, bytes, now_ns) != ASKS {
        return;
    }
    let Some([question, high, low, now_ns, ..]) = cells() else {
        return;
    };
    let answer = enforcer_limits(question.read(), high.read(), low.read(), now_ns.read(), bytes);
    enforcer_tried_limits(answer, bytes);
}

#[inline(always)]
fn cells() -> Option<[Cell; WORDS]> {
    let words: *mut u64 = TRIAL.get_ptr_mut(0)?.cast();
    // SAFETY: so many words in a per-CPU map's value.
    Some([0, 1, 2, 3, 4, 5, 6, 7].map(|word| unsafe { Cell::new(words.add(word)) }))
}

/// What is said before limits. SYN defence is not tried: whether a listener answers SYNs is not one policy's affair.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enforcer_tried(index: u64, bytes: u64, now_ns: u64) -> u64 {
    let (Some(control), Some(packet), Some(entry)) =
        (CONTROL.get(0), scratch::get(), interface::entry(index as u32))
    else {
        return SAID;
    };
    let Some([.., waits]) = cells() else {
        return SAID;
    };
    if waits.read() == 0 {
        return SAID;
    }
    waits.put_local(0);
    let interface = Interface::of(entry);
    let policy = service::tried(entry, &packet, packet.destination_port);
    let Some((place, bank)) = service::bank(interface, policy) else {
        return SAID;
    };
    let say = |reason| {
        verdict::count_tried(Direction::Ingress, policy, reason, bytes);
        SAID
    };
    if bank.flags & policy_flag::ACCESS != 0 {
        let list = table(table_kind::INGRESS, interface.slot(), policy);
        if let Some(entry) = access::lookup(list, &packet.source, now_ns)
            && !lapsed(control, entry.reason, now_ns)
        {
            return say(if entry.reason == Reason::Allowed as u32 {
                Reason::Allowed
            } else {
                Reason::Denied
            });
        }
    }
    if is_gone(control, now_ns) {
        return say(Reason::AgentGone);
    }
    let now_ns = if bank.flags & policy_flag::EXACT_TIME != 0 {
        clock::now_ns()
    } else {
        now_ns
    };
    let mut policy = u64::from(policy) | place.number() << PLACE;
    let (high, low, question, flow);
    if let Some(identity) = flow::identity(control, bank, &packet) {
        policy |= OF_IDENTITY;
        (high, low) = (0, u64::from(identity));
        question = limits::identity_question(place, traffic::TCP_OTHER);
        flow = [0, 0];
    } else {
        let of_udp = udp::Flow::of(bank, &packet, now_ns, control.zero);
        let charge = Charge {
            interface,
            packet: &packet,
            bytes,
            now_ns,
            handshake: syn::Handshake::unexamined(&packet, of_udp.is_new(), control.zero),
        };
        [high, low] = words(&packet.source);
        question = limits::question(&charge, place);
        flow = of_udp.numbers();
    }
    let Some(cells) = cells() else {
        return SAID;
    };
    for (cell, word) in cells
        .into_iter()
        .zip([question, high, low, now_ns, policy, flow[0], flow[1], 0])
    {
        cell.put_local(word);
    }
    ASKS
}

/// What is said once limits have answered.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enforcer_tried_limits(answer: u64, bytes: u64) -> u64 {
    let (Some(control), Some(packet), Some(cells)) = (CONTROL.get(0), scratch::get(), cells()) else {
        return 0;
    };
    let [_, _, _, now_ns, policy, hash, rest, _] = cells.map(Cell::read);
    let number = policy as u32 & 0xff;
    let reason = if policy & OF_IDENTITY != 0 {
        limits::reason(answer, Reason::Verified)
    } else {
        let within = limits::reason(answer, Reason::WithinLimits);
        let reserved = if within.drops() {
            reserve(control, &packet, policy, now_ns)
        } else {
            None
        };
        reserved.unwrap_or(within)
    };
    if !reason.drops() {
        udp::Flow::from_numbers([hash, rest]).remember(now_ns);
    }
    verdict::count_tried(Direction::Ingress, number, reason, bytes);
    0
}

#[inline(always)]
fn reserve(control: &Control, packet: &Packet, policy: u64, now_ns: u64) -> Option<Reason> {
    let place = Place::from_number(policy >> PLACE);
    let bank = limits::Question::new(place).bank()?;
    recent::check(control, place, bank, packet, now_ns)
}
