//! Who spoke first: replies to those that were let in leave where the default is to deny. See
//! `enforcer_common::flow_memory`, which has the pure part.

use aya_ebpf::bindings::xdp_md;
use enforcer_common::{
    flow_memory::{CELLS, Entry, Phase, Sighting, line},
    hash,
    layout::{Address, FLOW_MEMORY_LINES, interface_flag},
};

use crate::{
    atomic::Cell,
    forget::forget,
    interface::Interface,
    maps::{CONTROL, FLOW_MEMORY},
    parse::{
        Packet,
        address::words,
        both_families,
        reading::{self, Reading, enforcer_read_xdp},
    },
    scratch,
};

/// Attempts against other CPUs that write to the same line.
const ATTEMPTS: usize = 2;
/// Sets fragments apart from flows, above protocol and ports.
const FRAGMENTS: u64 = 1 << 40;
/// Sets flows that are tried apart from others.
const TRIED: u32 = 41;

/// Remembers what has arrived and passes. The packet is read once more: only where the default is to deny, which so costs
/// others nothing.
#[inline(always)]
pub fn remember_arrival(ctx: *mut xdp_md, interface: Interface, now_ns: u64) {
    if Reading::from(enforcer_read_xdp(ctx, interface.bare())).kind() != reading::IP {
        return;
    }
    if interface.has(interface_flag::EGRESS_MEMORY) {
        enforcer_arrived(Memory::Enforced as u64, now_ns);
    }
    if interface.has(interface_flag::TRIED_MEMORY) {
        enforcer_arrived(Memory::Tried as u64, now_ns);
    }
}

/// Remembers the packet in [`scratch`], which has arrived and passes.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enforcer_arrived(memory: u64, now_ns: u64) -> u64 {
    if let Some(packet) = scratch::get() {
        arrived(&packet, memory << TRIED, now_ns);
    }
    0
}

/// Whose flows are remembered: those that a default which is enforced goes by, or those that one in shadow does. So
/// nothing that is only tried is an answer to what is enforced.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Memory {
    Enforced = 0,
    Tried = 1,
}

/// Where a [`Memory`] is above a [`Deed`].
const MEMORY: u32 = 8;

/// What a packet at TC does.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Deed {
    /// It leaves if it answers.
    Answers = 0,
    /// It leaves, as rules allow.
    Speaks = 1,
    /// It leaves although rules that are only tried do not allow it.
    Tries = 2,
    /// It arrives, and passes.
    Arrives = 3,
}

/// What [`recall`] says of a packet that answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Recalled {
    Nothing,
    /// Its peer spoke first.
    Answer,
    /// It is the rest of a datagram whose first fragment was allowed.
    Rest,
}

const ANSWER: u64 = 1;
const REST: u64 = 2;

/// Remembers what the packet in [`scratch`] does, or says whether it answers.
#[inline(always)]
pub fn recall(deed: Deed, memory: Memory, now_ns: u64) -> Recalled {
    match enforcer_recall(deed as u64 | (memory as u64) << MEMORY, now_ns) {
        ANSWER => Recalled::Answer,
        REST => Recalled::Rest,
        _ => Recalled::Nothing,
    }
}

/// As [`recall`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enforcer_recall(what: u64, now_ns: u64) -> u64 {
    let (deed, memory) = (what & ((1 << MEMORY) - 1), what >> MEMORY << TRIED);
    let Some(packet) = scratch::get() else {
        return NOTHING;
    };
    if deed == Deed::Answers as u64 {
        return match answers(&packet, memory, now_ns) {
            Some(true) => ANSWER,
            Some(false) => REST,
            None => NOTHING,
        };
    }
    if deed == Deed::Speaks as u64 {
        spoke(&packet, memory, now_ns);
    } else if deed == Deed::Tries as u64 {
        tried(&packet, memory, now_ns);
    } else {
        arrived(&packet, memory, now_ns);
    }
    NOTHING
}

/// Remembers a packet from the peer, which passes.
#[inline(always)]
fn arrived(packet: &Packet, memory: u64, now_ns: u64) {
    let protocol = both_families(packet.protocol);
    if packet.later_fragment {
        return;
    }
    if let Some(sighting) = Sighting::arriving(protocol, packet.detail) {
        let ports = ports(packet.source_port, packet.destination_port);
        let hash = hash(
            &packet.source,
            &packet.destination,
            ports | u64::from(protocol) << 32 | memory,
        );
        enforcer_flow(hash, sighting.number(), now_ns);
    }
}

/// Remembers that this end has spoken, as rules allow.
#[inline(always)]
fn spoke(packet: &Packet, memory: u64, now_ns: u64) {
    if packet.later_fragment {
        return;
    }
    if let Some(sighting) = Sighting::allowed(both_families(packet.protocol), packet.detail) {
        enforcer_flow(leaving(packet, memory), sighting.number(), now_ns);
    }
    if packet.fragment {
        let sighting = Sighting::first_fragment(false);
        enforcer_flow(fragments(packet, memory), sighting.number(), now_ns);
    }
}

/// Remembers that this end has spoken although rules that are only tried do not allow it.
#[inline(always)]
fn tried(packet: &Packet, memory: u64, now_ns: u64) {
    if packet.later_fragment {
        return;
    }
    if let Some(sighting) = Sighting::tried(both_families(packet.protocol), packet.detail) {
        enforcer_flow(leaving(packet, memory), sighting.number(), now_ns);
    }
}

/// Whether a packet that no rule allows may leave: `Some(true)` as an answer, `Some(false)` as the rest of a
/// datagram whose first fragment was allowed.
#[inline(always)]
fn answers(packet: &Packet, memory: u64, now_ns: u64) -> Option<bool> {
    if packet.later_fragment {
        let number = Sighting::LATER_FRAGMENT.number();
        let phase = enforcer_flow(fragments(packet, memory), number, now_ns);
        return (phase != NOTHING).then_some(phase != Phase::Ours as u64);
    }
    let sighting = Sighting::answering(both_families(packet.protocol), packet.detail)?;
    let phase = enforcer_flow(leaving(packet, memory), sighting.number(), now_ns);
    if phase == NOTHING || phase == Phase::Ours as u64 {
        return None;
    }
    if packet.fragment {
        let sighting = Sighting::first_fragment(true);
        enforcer_flow(fragments(packet, memory), sighting.number(), now_ns);
    }
    Some(true)
}

/// The flow of a packet of this end.
#[inline(always)]
fn leaving(packet: &Packet, memory: u64) -> u64 {
    let ports = ports(packet.destination_port, packet.source_port);
    let protocol = u64::from(both_families(packet.protocol));
    hash(
        &packet.destination,
        &packet.source,
        ports | protocol << 32 | memory,
    )
}

/// The fragments that this end sends to the same destination by the same protocol.
#[inline(always)]
fn fragments(packet: &Packet, memory: u64) -> u64 {
    let protocol = u64::from(both_families(packet.protocol));
    hash(
        &packet.destination,
        &packet.source,
        FRAGMENTS | protocol << 32 | memory,
    )
}

#[inline(always)]
fn ports(peer: u16, own: u16) -> u64 {
    u64::from(peer) << 16 | u64::from(own)
}

#[inline(always)]
fn hash(peer: &Address, own: &Address, rest: u64) -> u64 {
    let Some(control) = CONTROL.get(0) else { return 0 };
    let ([a, b], [c, d]) = (words(peer), words(own));
    let first = hash::of_two(control.key, a, b);
    let second = hash::of_two(control.key, first ^ c, d);
    hash::of_two(control.key, second, rest)
}

/// No phase: nothing was remembered.
const NOTHING: u64 = 0;

/// What is remembered of a flow, as a [`Phase`], and what a sighting makes of it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enforcer_flow(hash: u64, sighting: u64, now_ns: u64) -> u64 {
    let sighting = Sighting::from_number(sighting);
    let Some(control) = CONTROL.get(0) else {
        return NOTHING;
    };
    let Some(cells) = FLOW_MEMORY.get_ptr_mut(line(hash, FLOW_MEMORY_LINES)) else {
        return NOTHING;
    };
    // SAFETY: a line is a map's value of CELLS words, and the mask keeps the place below CELLS.
    let cell = |place: u64| unsafe { Cell::new(cells.cast::<u64>().add(place as usize & (CELLS - 1))) };
    for _ in 0..ATTEMPTS {
        // The place of the cell that is given up first, and how readily.
        let (mut victim, mut worth, mut held) = (0, 0, 0);
        let mut contended = false;
        for place in 0..CELLS as u64 {
            let word = cell(place).read();
            let entry = Entry::read(word);
            let phase = entry.phase(now_ns);
            if entry.is_of(hash)
                && let Some(phase) = phase
            {
                let next = sighting.next(entry, phase, now_ns).word();
                if next == word || cell(place).swap(word, next) {
                    return phase as u64;
                }
                contended = true;
                break;
            }
            let readily = entry.worth_giving_up(now_ns);
            if readily > worth {
                (victim, worth, held) = (place, readily, word);
            }
            victim = forget(victim, control.zero);
            worth = forget(worth, control.zero);
        }
        if contended {
            continue;
        }
        let Some(first) = sighting.first(hash, now_ns) else {
            return NOTHING;
        };
        if worth == 0 || cell(victim).swap(held, first.word()) {
            return NOTHING;
        }
    }
    NOTHING
}
