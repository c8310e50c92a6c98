//! A SYN's TCP options (RFC 9293, 3.1).

use crate::frame::{Frame, Header};

const END: u8 = 0;
const NOTHING: u8 = 1;
const MSS: u8 = 2;
const SCALE: u8 = 3;
const SACK: u8 = 4;
const TIMESTAMPS: u8 = 8;

/// Options that are looked at, paddings included; what comes after them is as if it were not there.
const MOST: usize = 16;

/// The largest window scale (RFC 7323, 2.3).
const MOST_SCALE: u64 = 14;

/// What the SYN offers. Numbers alone, for the verifier's sake.
pub struct Offer {
    /// Zero: it does not say.
    pub mss: u64,
    /// [`enforcer_common::layout::syn_option::NO_SCALE`]: none.
    pub scale: u64,
    /// 1: selective acknowledgement.
    pub sack: u64,
    /// 1: timestamps.
    pub timestamps: u64,
    /// Its timestamp, as it lies there.
    pub stamp: u64,
}

impl Offer {
    /// Reads the options of the TCP header at `start`. `zero` is zero, and the verifier does not know it:
    /// so that each turn looks like the one before.
    #[inline(always)]
    pub fn read(frame: &Frame, start: usize, segment: Header<20>, zero: u64) -> Self {
        let mut offer = Self {
            mss: zero,
            scale: zero.wrapping_add(enforcer_common::layout::syn_option::NO_SCALE),
            sack: zero,
            timestamps: zero,
            stamp: zero,
        };
        let end = u64::from(segment.u8::<12>() >> 4) * 4;
        let mut at = zero.wrapping_add(20) & 63;
        for _ in 0..MOST {
            if at + 2 > end {
                break;
            }
            let place = start + at as usize;
            let Some(head) = frame.header::<2>(place) else {
                break;
            };
            let (kind, mut length) = (head.u8::<0>(), u64::from(head.u8::<1>()));
            if kind == END {
                break;
            }
            if kind == NOTHING {
                length = 1;
            } else if length < 2 || at + length > end {
                break;
            } else {
                offer.take(frame, place, kind, length, zero);
            }
            at = at.wrapping_add(length).wrapping_add(zero) & 63;
        }
        offer
    }

    #[inline(always)]
    fn take(&mut self, frame: &Frame, place: usize, kind: u8, length: u64, zero: u64) {
        match (kind, length) {
            (MSS, 4) => {
                if let Some(option) = frame.header::<4>(place) {
                    self.mss = u64::from(option.be16::<2>()).wrapping_add(zero);
                }
            }
            (SCALE, 3) => {
                if let Some(option) = frame.header::<3>(place) {
                    let scale = u64::from(option.u8::<2>());
                    self.scale = if scale > MOST_SCALE { MOST_SCALE } else { scale }.wrapping_add(zero);
                }
            }
            (SACK, 2) => self.sack = zero.wrapping_add(1),
            (TIMESTAMPS, 10) => {
                if let Some(option) = frame.header::<10>(place) {
                    self.stamp = u64::from(option.u32::<2>()).wrapping_add(zero);
                    self.timestamps = zero.wrapping_add(1);
                }
            }
            _ => {}
        }
    }
}
