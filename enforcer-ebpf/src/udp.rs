//! Stage 6, connections of UDP: a datagram opens one if the memory does not know its flow. Only flows whose
//! first datagram was admitted are remembered, so that a flood of forged ones fills the memory no faster than the
//! limits let it.

use core::ptr;

use enforcer_common::{
    flow_memory::{CELLS, Entry, Line, Sighting, line},
    hash,
    layout::{Bank, UDP_LINES, policy_flag},
};

use crate::{
    atomic::Cell,
    forget::forget,
    maps::{CONTROL, TRIED_UDP_FLOWS, UDP_FLOWS},
    parse::{Packet, protocol},
    sketch::words,
};

/// A datagram's flow. Numbers alone, of which the verifier does not know how they hang together.
#[derive(Clone, Copy)]
pub struct Flow {
    hash: u64,
    /// [`NEW`]: it is counted, and the memory does not know it. Beside that, [`TRIED`]. In one number, for each takes up a
    /// stack that is short.
    what: u64,
}

impl Flow {
    /// Of a packet, where a limit counts flows.
    #[inline(always)]
    pub fn of(bank: &Bank, packet: &Packet, now_ns: u64, zero: u64) -> Self {
        let mut flow = Self { hash: 0, what: KNOWN };
        // A later fragment does not say which flow it is of.
        if bank.flags & policy_flag::UDP_FLOWS != 0
            && packet.protocol == protocol::UDP
            && !packet.later_fragment
        {
            let (source, destination) = (words(&packet.source), words(&packet.destination));
            let ports = u64::from(packet.source_port) << 16 | u64::from(packet.destination_port);
            let ports = u64::from(bank.udp_id) << 32 | ports;
            flow.hash = enforcer_udp_hash(source.0, source.1, destination.0, destination.1, ports);
            let memory = if bank.flags & policy_flag::SHADOW == 0 {
                0
            } else {
                TRIED
            };
            flow.what = memory | enforcer_udp_flow(flow.hash, now_ns, LOOKS | memory);
        }
        Self {
            hash: forget(flow.hash, zero),
            what: forget(flow.what, zero),
        }
    }

    /// As numbers, for a map.
    #[inline(always)]
    pub fn numbers(self) -> [u64; 2] {
        [self.hash, self.what]
    }

    /// What [`Self::numbers`] gave.
    #[inline(always)]
    pub fn from_numbers([hash, what]: [u64; 2]) -> Self {
        Self { hash, what }
    }

    /// Whether its first datagram is yet to be admitted.
    #[inline(always)]
    pub fn is_new(self) -> bool {
        self.what & NEW != 0
    }

    /// It was admitted.
    #[inline(always)]
    pub fn remember(self, now_ns: u64) {
        if self.is_new() {
            enforcer_udp_flow(self.hash, now_ns, REMEMBERS | self.what & TRIED);
        }
    }
}

const KNOWN: u64 = 0;
const NEW: u64 = 1;
const LOOKS: u64 = 0;
const REMEMBERS: u64 = 1;
/// The memory is that of limits in shadow.
const TRIED: u64 = 2;

/// The keyed hash of a flow's ends, and whose flow it is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enforcer_udp_hash(
    source_high: u64,
    source_low: u64,
    destination_high: u64,
    destination_low: u64,
    ports: u64,
) -> u64 {
    let Some(control) = CONTROL.get(0) else {
        return 1;
    };
    let source = hash::of_two(control.key, source_high, source_low);
    let both = hash::of_two(control.key, source ^ destination_high, destination_low);
    hash::of_one(control.key, both ^ ports)
}

/// Whether the memory knows a flow: [`KNOWN`] or [`NEW`]. One that it knows is seen anew; one that it does not
/// is remembered, if that is asked for.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enforcer_udp_flow(hash: u64, now_ns: u64, what: u64) -> u64 {
    let line = line(hash, UDP_LINES);
    let cells = if what & TRIED == 0 {
        UDP_FLOWS.get_ptr_mut(line)
    } else {
        TRIED_UDP_FLOWS.get_ptr_mut(line)
    };
    let (Some(control), Some(cells)) = (CONTROL.get(0), cells) else {
        return KNOWN;
    };
    let Some(sighting) = Sighting::arriving(protocol::UDP, 0) else {
        return KNOWN;
    };
    let mut worth = 0;
    let mut victim = 0;
    for number in 0..CELLS as u64 {
        let cell = cell(cells, number);
        let word = forget(cell.read(), control.zero);
        let entry = Entry::read(word);
        let phase = entry.phase(now_ns);
        if entry.is_of(hash)
            && let Some(phase) = phase
        {
            let next = sighting.next(entry, phase, now_ns).word();
            if next != word {
                // Another CPU may be faster: then it has seen the flow.
                cell.swap(word, next);
            }
            return KNOWN;
        }
        let this = forget(entry.worth_giving_up(now_ns), control.zero);
        let better = u64::from(this > worth);
        worth = forget(if this > worth { this } else { worth }, control.zero);
        victim = forget(victim + better * (number.wrapping_sub(victim)), control.zero);
    }
    if what & REMEMBERS != 0
        && let Some(first) = sighting.first(hash, now_ns)
    {
        let cell = cell(cells, victim);
        cell.swap(cell.read(), first.word());
    }
    NEW
}

/// A cell of a line; numbers wrap round.
#[inline(always)]
fn cell(cells: *mut Line, number: u64) -> Cell {
    let words: *mut u64 = cells.cast();
    // SAFETY: `cells` is a map's value of CELLS words, and the number is below that.
    unsafe { Cell::new(ptr::addr_of_mut!(*words.add(number as usize & (CELLS - 1)))) }
}
