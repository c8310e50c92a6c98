//! Which generation an interface is in.

use enforcer_common::layout::{
    Interface as Entry, MAX_INTERFACES, NO_POLICY, SEATS as SEAT_ENTRIES, SLOTS, interface_flag,
};

use crate::maps::{INTERFACES, SEATS};

/// An interface's entry, in one word: the verifier would follow all that comes for each of the maps that a
/// pointer may point into, and a copy of six takes up a stack that is short.
#[derive(Clone, Copy)]
pub struct Interface(u64);

const SLOT: u32 = 0;
const ANY: u32 = 2;
const BASE: u32 = 10;
const GROUP: u32 = 18;
const POSITION: u32 = 31;
const FLAGS: u32 = 44;
const FLAG_BITS: u32 = 0xf_ffff;
const PLACE_BITS: u32 = 0x1fff;

const _: () = assert!(SLOTS <= 4 && NO_POLICY < 1 << 8 && MAX_INTERFACES <= PLACE_BITS);

/// The entry of the interface `index`, or `None` if no policy is about it.
#[inline(always)]
pub fn find(index: u32) -> Option<Interface> {
    entry(index).map(Interface::of)
}

/// All that its entry says. A later look may find another generation's.
#[inline(always)]
pub fn entry(index: u32) -> Option<&'static Entry> {
    if let Some(seat) = SEATS.get(index & (SEAT_ENTRIES - 1))
        && seat.index == index
    {
        return Some(if seat.select & 1 == 0 {
            &seat.banks[0]
        } else {
            &seat.banks[1]
        });
    }
    // SAFETY: the agent replaces values as a whole, and a replaced one outlives the packet (RCU).
    unsafe { INTERFACES.get(index) }
}

impl Interface {
    #[inline(always)]
    pub fn of(entry: &Entry) -> Self {
        Self(
            u64::from(entry.slot & 3) << SLOT
                | u64::from(entry.flags & FLAG_BITS) << FLAGS
                | u64::from(entry.any & 0xff) << ANY
                | u64::from(entry.base & 0xff) << BASE
                | u64::from(entry.group & PLACE_BITS) << GROUP
                | u64::from(entry.position & PLACE_BITS) << POSITION,
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
        self.bits(SLOT, 3)
    }

    /// Whether it has any of these: see `layout::interface_flag`.
    #[inline(always)]
    pub fn has(self, flag: u32) -> bool {
        self.bits(FLAGS, FLAG_BITS) & flag != 0
    }

    /// Whether packets have no Ethernet header, as a global function takes it.
    #[inline(always)]
    pub fn bare(self) -> u64 {
        u64::from(self.has(interface_flag::BARE))
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
        self.bits(GROUP, PLACE_BITS)
    }

    #[inline(always)]
    pub fn position(self) -> u32 {
        self.bits(POSITION, PLACE_BITS)
    }
}
