//! Connections whose cookie has just come back. What follows the ACK closely is looked at before the stack
//! has made a connection of it, and brings no cookie of its own.
//!
//! A cell for each hash, written over by the next: who is forgotten sends again.

use enforcer_common::{hash, layout::PROVEN_CELLS};

use crate::{
    atomic::Cell,
    maps::{CONTROL, PROVEN},
};

/// Nanoseconds in a tick, as a power of two: 67 ms.
const TICK: u32 = 26;
/// Ticks for which a connection is remembered.
const REMEMBERED: u16 = 2;
/// The bits below are the tick; those above are the hash's own.
const TAG: u64 = !0xffff;

/// A connection's cell, and what it holds when the connection has just been proven.
pub struct Memory {
    cell: Cell,
    mark: u64,
}

impl Memory {
    /// Of the connection with that lookup key.
    #[inline(always)]
    pub fn of(tuple: [u32; 9], now_ns: u64) -> Option<Self> {
        let key = CONTROL.get(0)?.key;
        let word = |at: usize| u64::from(tuple[at]) | u64::from(tuple[at + 1]) << 32;
        let first = hash::of_two(key, word(0), word(2));
        let hash = hash::of_two(key, first.wrapping_add(word(4)), word(6) ^ u64::from(tuple[8]));
        let cell = PROVEN.get_ptr_mut(hash as u32 & (PROVEN_CELLS - 1))?;
        Some(Self {
            // SAFETY: a map's value of eight bytes.
            cell: unsafe { Cell::new(cell) },
            mark: hash & TAG | now_ns >> TICK & !TAG,
        })
    }

    /// Its cookie has come back.
    #[inline(always)]
    pub fn remember(&self) {
        // Another CPU may be faster: then it is that one's connection that is remembered.
        self.cell.swap(self.cell.read(), self.mark);
    }

    /// Whether its cookie has just come back.
    #[inline(always)]
    pub fn holds(&self) -> bool {
        let held = self.cell.read();
        let age = (self.mark as u16).wrapping_sub(held as u16);
        held & TAG == self.mark & TAG && age <= REMEMBERED
    }
}
