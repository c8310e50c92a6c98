//! A SYN's TCP options (RFC 9293, 3.1).

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use enforcer_common::layout::syn_option;

use crate::{frame::Frame, maps::CONTROL};

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

/// What the SYN offers, in one number: its timestamp, then 16 bits of MSS, and [`syn_option`]s.
#[derive(Clone, Copy)]
pub struct Offer(u64);

const STAMP: u32 = 32;
const SEGMENT: u32 = 16;

impl Offer {
    /// Of the TCP header at `place`.
    #[inline(always)]
    pub fn read(ctx: *mut xdp_md, place: usize) -> Self {
        Self(enforcer_syn_options(ctx, place as u64))
    }

    /// Zero: it does not say.
    #[inline(always)]
    pub fn mss(self) -> u16 {
        (self.0 >> SEGMENT) as u16
    }

    /// [`syn_option::NO_SCALE`]: none.
    #[inline(always)]
    pub fn scale(self) -> u64 {
        self.0 & syn_option::SCALE
    }

    /// Selective acknowledgement.
    #[inline(always)]
    pub fn sack(self) -> bool {
        self.0 & syn_option::SACK != 0
    }

    /// It has timestamps.
    #[inline(always)]
    pub fn timestamps(self) -> bool {
        self.0 & syn_option::TIMESTAMPS != 0
    }

    /// Its timestamp, as it lies there.
    #[inline(always)]
    pub fn stamp(self) -> u32 {
        (self.0 >> STAMP) as u32
    }
}

/// An [`Offer`]. A global function, so that the verifier looks at it once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enforcer_syn_options(ctx: *mut xdp_md, place: u64) -> u64 {
    let frame = Frame::of_xdp(&XdpContext::new(ctx));
    // Behind Ethernet with two tags and IPv6, at most.
    let place = (place & 0x7f) as usize;
    let (Some(segment), Some(control)) = (frame.header::<20>(place), CONTROL.get(0)) else {
        return syn_option::NO_SCALE;
    };
    let zero = control.zero;
    let end = u64::from(segment.u8::<12>() >> 4) * 4;
    // Numbers that the verifier knows nothing of, so that each turn looks like the one before.
    let mut offer = zero.wrapping_add(syn_option::NO_SCALE);
    let mut at = zero.wrapping_add(20) & 63;
    for _ in 0..MOST {
        if at + 2 > end {
            break;
        }
        let option = place + at as usize;
        let Some(head) = frame.header::<2>(option) else {
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
            offer = with(&frame, option, kind, length, offer).wrapping_add(zero);
        }
        at = at.wrapping_add(length).wrapping_add(zero) & 63;
    }
    offer
}

/// The offer with one option more.
#[inline(always)]
fn with(frame: &Frame, place: usize, kind: u8, length: u64, offer: u64) -> u64 {
    match (kind, length) {
        (MSS, 4) => match frame.header::<4>(place) {
            Some(option) => offer & !(0xffff << SEGMENT) | u64::from(option.be16::<2>()) << SEGMENT,
            None => offer,
        },
        (SCALE, 3) => match frame.header::<3>(place) {
            Some(option) => {
                let scale = u64::from(option.u8::<2>());
                offer & !syn_option::SCALE | if scale > MOST_SCALE { MOST_SCALE } else { scale }
            }
            None => offer,
        },
        (SACK, 2) => offer | syn_option::SACK,
        (TIMESTAMPS, 10) => match frame.header::<10>(place) {
            Some(option) => {
                let rest = offer & 0xffff_ffff | syn_option::TIMESTAMPS;
                rest | u64::from(option.u32::<2>()) << STAMP
            }
            None => offer,
        },
        _ => offer,
    }
}
