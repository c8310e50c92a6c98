//! Which generation an interface is in.

use enforcer_common::layout::{Interface as Entry, MAX_INTERFACES, NO_POLICY, SEATS as SEAT_ENTRIES};

use crate::maps::{INTERFACES, SEATS};

/// An interface's entry, in one word: the verifier would follow all that comes for each of the maps that a
/// pointer may point into, and a copy of six takes up a stack that is short.
#[derive(Clone, Copy)]
pub struct Interface(u64);

const SLOT: u32 = 0;
const ANY: u32 = 4;
const BASE: u32 = 12;
const GROUP: u32 = 20;
const POSITION: u32 = 36;
const FLAGS: u32 = 52;
const FLAG_BITS: u32 = 0xfff;

const _: () = assert!(NO_POLICY < 1 << 8 && MAX_INTERFACES < 1 << 16);

/// The entry of the interface `index`, or `None` if no policy is about it.
#[inline(always)]
pub fn find(index: u32) -> Option<Interface> {
    if let Some(seat) = SEATS.get(index & (SEAT_ENTRIES - 1))
        && seat.index == index
    {
        return Some(if seat.select & 1 == 0 {
            Interface::of(&seat.banks[0])
        } else {
            Interface::of(&seat.banks[1])
        });
    }
    // SAFETY: the agent replaces values as a whole, and a replaced one outlives the packet (RCU).
    unsafe { INTERFACES.get(index) }.map(Interface::of)
}

impl Interface {
    #[inline(always)]
    fn of(entry: &Entry) -> Self {
        Self(
            u64::from(entry.slot & 1) << SLOT
                | u64::from(entry.flags & FLAG_BITS) << FLAGS
                | u64::from(entry.any & 0xff) << ANY
                | u64::from(entry.base & 0xff) << BASE
                | u64::from(entry.group & 0xffff) << GROUP
                | u64::from(entry.position & 0xffff) << POSITION,
        )
    }

    /// As a number, for global functions.
    #[inline(always)]
    pub fn word(self) -> u64 {
        self.0
    }

    /// What [`Self::word`] gave.
    #[inline(always)]
    pub fn from_word(word: u64) -> Self {
        Self(word)
    }

    #[inline(always)]
    fn bits(self, from: u32, mask: u32) -> u32 {
        (self.0 >> from) as u32 & mask
    }

    #[inline(always)]
    pub fn slot(self) -> u32 {
        self.bits(SLOT, 1)
    }

    /// Whether it has any of these: see `layout::interface_flag`.
    #[inline(always)]
    pub fn has(self, flag: u32) -> bool {
        self.bits(FLAGS, FLAG_BITS) & flag != 0
    }

    #[inline(always)]
    pub fn any(self) -> u32 {
        self.bits(ANY, 0xff)
    }

    #[inline(always)]
    pub fn base(self) -> u32 {
        self.bits(BASE, 0xff)
    }

    #[inline(always)]
    pub fn group(self) -> u32 {
        self.bits(GROUP, 0xffff)
    }

    #[inline(always)]
    pub fn position(self) -> u32 {
        self.bits(POSITION, 0xffff)
    }
}
