//! A packet between two global functions, in a map of this CPU's: the verifier so looks at what becomes of it
//! once, and not once for each way through the parser. Programs do not nest on a CPU.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use enforcer_common::layout::Address;

use crate::{
    atomic::Cell,
    parse::{
        Packet,
        address::{address, words},
    },
};

/// Addresses in four words, and the rest of a [`Packet`] in one.
const WORDS: usize = 5;

/// One element.
#[map]
static SCRATCH: PerCpuArray<[u64; WORDS]> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
fn cells() -> Option<[Cell; WORDS]> {
    let words: *mut u64 = SCRATCH.get_ptr_mut(0)?.cast();
    // SAFETY: five words in a per-CPU map's value.
    Some([0, 1, 2, 3, 4].map(|word| unsafe { Cell::new(words.add(word)) }))
}

/// Puts a packet there.
#[inline(always)]
pub fn put(packet: &Packet) {
    put_words(packed(packet));
}

/// The words that a packet is there.
#[inline(always)]
pub fn packed(packet: &Packet) -> [u64; WORDS] {
    let ([a, b], [c, d]) = (words(&packet.source), words(&packet.destination));
    let rest = u64::from(packet.source_port)
        | u64::from(packet.destination_port) << 16
        | u64::from(packet.protocol) << 32
        | u64::from(packet.detail) << 40
        | u64::from(packet.hop_limit) << 48
        | u64::from(packet.later_fragment) << 56
        | u64::from(packet.fragment) << 57;
    [a, b, c, d, rest]
}

/// Puts those there.
#[inline(always)]
pub fn put_words(words: [u64; WORDS]) {
    if let Some(cells) = cells() {
        for (cell, word) in cells.into_iter().zip(words) {
            cell.put_local(word);
        }
    }
}

/// Puts a packet there of which no more is known than its addresses.
#[inline(always)]
pub fn put_addresses(source: &Address, destination: &Address) {
    let Some([a, b, c, d, rest]) = cells() else {
        return;
    };
    let (source, destination) = (words(source), words(destination));
    a.put_local(source[0]);
    b.put_local(source[1]);
    c.put_local(destination[0]);
    d.put_local(destination[1]);
    rest.put_local(0);
}

/// The packet that was put there last.
#[inline(always)]
pub fn get() -> Option<Packet> {
    let [a, b, c, d, rest] = cells()?.map(Cell::read);
    Some(Packet {
        source: address([a, b]),
        destination: address([c, d]),
        source_port: rest as u16,
        destination_port: (rest >> 16) as u16,
        protocol: (rest >> 32) as u8,
        detail: (rest >> 40) as u8,
        hop_limit: (rest >> 48) as u8,
        later_fragment: rest >> 56 & 1 != 0,
        fragment: rest >> 57 & 1 != 0,
    })
}
