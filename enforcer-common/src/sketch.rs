//! The sketch: a count-min sketch (Cormode and Muthukrishnan, 2005) whose cells are limiters.
//!
//! A source's cells lie in one line of eight, so that it costs one cache miss: a keyed hash picks the
//! line and, in it, four of the eight. A source is over its limit only if all its cells
//! are; whoever shares fewer than four with heavy ones is never hurt. Nothing is inserted or evicted,
//! so nothing can be refilled, and memory is what it was at the start.

use crate::{
    hash::{self, Key},
    layout::{Address, Limit, V4_MAPPED},
};

/// Cells in a line: a cache line of them.
pub const CELLS: usize = 8;
/// Cells that one source is charged in.
pub const ROWS: usize = 4;

/// All ways to choose a source's cells of a line, 8 over 4, and after them some of these again, so that there
/// are as many as a number of seven bits has values. Each is four cells of a byte each, in order.
pub static CHOICES: [u32; 128] = choices();

const fn choices() -> [u32; 128] {
    let mut all = [0; 128];
    let (mut set, mut count) = (0_u32, 0);
    while count < all.len() {
        let cells = set & ((1 << CELLS) - 1);
        if cells.count_ones() as usize == ROWS {
            all[count] = packed(cells);
            count += 1;
        }
        set += 1;
    }
    all
}

/// The members of a set of four cells.
const fn packed(set: u32) -> u32 {
    let (mut packed, mut cell, mut row) = (0, 0, 0);
    while cell < CELLS as u32 {
        if set >> cell & 1 == 1 {
            packed |= cell << (8 * row);
            row += 1;
        }
        cell += 1;
    }
    packed
}

/// One line: the limiters' states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Line {
    /// The cells.
    pub cells: [u64; CELLS],
}

const _: () = assert!(size_of::<Line>() == 64);

/// Where a source's cells are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: u32,
    /// One of the [`CHOICES`].
    pub choice: u32,
}

impl Place {
    /// The place of the prefix that `limit` speaks of, of the source whose [`words`] are given, in a
    /// sketch of `mask + 1` lines.
    #[inline(always)]
    #[must_use]
    pub fn of(key: Key, mask: u64, limit: &Limit, high: u64, low: u64) -> Self {
        // The limit's number makes each limit's hash function another one.
        let hash = if is_mapped(high, low) {
            let address = low & limit.mask_v4_low & u64::from(u32::MAX);
            hash::of_one(key, u64::from(limit.id) << 32 | address)
        } else {
            let key = Key {
                k0: key.k0 ^ u64::from(limit.id),
                k1: key.k1,
            };
            hash::of_two(key, high & limit.mask_v6_high, low & limit.mask_v6_low)
        };
        Self::of_hash(hash, mask)
    }

    /// The place of whoever has this hash, in a sketch of `mask + 1` lines, 2^32 at most.
    #[inline(always)]
    #[must_use]
    pub fn of_hash(hash: u64, mask: u64) -> Self {
        Self {
            line: (hash & mask) as u32,
            choice: CHOICES[(hash >> 57) as usize],
        }
    }

    /// The cell of row `row` within the line: below [`CELLS`] for rows below [`ROWS`].
    #[inline(always)]
    #[must_use]
    pub const fn cell(self, row: usize) -> usize {
        (self.choice >> (8 * row)) as usize & (CELLS - 1)
    }
}

/// An address as two big-endian words.
#[inline(always)]
#[must_use]
pub const fn words(address: &Address) -> (u64, u64) {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    (
        u64::from_be_bytes([a, b, c, d, e, f, g, h]),
        u64::from_be_bytes([i, j, k, l, m, n, o, p]),
    )
}

/// Whether the words are an IPv4-mapped address.
#[inline(always)]
#[must_use]
pub const fn is_mapped(high: u64, low: u64) -> bool {
    high == 0 && low >> 32 == 0xffff
}

/// The masks that leave the first `v4` and `v6` bits of an address: `(v6 high, v6 low, v4 low)`.
#[must_use]
pub const fn masks(v4: u8, v6: u8) -> (u64, u64, u64) {
    const fn leading(bits: u32) -> u64 {
        match bits {
            0 => 0,
            64.. => u64::MAX,
            _ => u64::MAX << (64 - bits),
        }
    }
    let v6 = v6 as u32;
    // The upper half of a mapped address's second word is the mapping itself.
    let v4 = 32 + v4 as u32;
    (leading(v6), leading(v6.saturating_sub(64)), leading(v4))
}

/// The mapped form of an IPv4 address.
#[inline(always)]
#[must_use]
pub const fn mapped(address: [u8; 4]) -> Address {
    let [a, b, c, d] = address;
    let m = V4_MAPPED;
    [
        m[0], m[1], m[2], m[3], m[4], m[5], m[6], m[7], m[8], m[9], m[10], m[11], a, b, c, d,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_leave_the_prefix() {
        assert_eq!(masks(32, 128), (u64::MAX, u64::MAX, u64::MAX));
        assert_eq!(masks(24, 64), (u64::MAX, 0, u64::MAX << 8));
        assert_eq!(masks(1, 1), (1 << 63, 0, u64::MAX << 31));
        assert_eq!(masks(8, 72), (u64::MAX, 0xff << 56, u64::MAX << 24));
    }

    #[test]
    fn a_place_has_four_cells_of_its_line() {
        for choice in CHOICES {
            let place = Place { line: 0, choice };
            let mut seen = [false; CELLS];
            for row in 0..ROWS {
                assert!(!core::mem::replace(&mut seen[place.cell(row)], true));
            }
        }
    }

    #[test]
    fn each_choice_is_there_once_or_twice() {
        for choice in &CHOICES {
            let count = CHOICES.iter().filter(|other| *other == choice).count();
            assert!((1..=2).contains(&count));
        }
        let mut all = CHOICES;
        all.sort_unstable();
        assert_eq!(all.chunk_by(|a, b| a == b).count(), 70);
    }
}
