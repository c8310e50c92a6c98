//! The fixed window: so much in each, counted from the clock's zero.
//!
//! The state is the window's number, modulo 2^24, above 40 bits of what was used in it. At most `amount` is admitted
//! in each window, exactly; so across a border up to `2 · amount` at once, and in any interval of length `d` at most
//! `amount · (⌊d / period⌋ + 2)`. A source that never exceeds `amount` in any `period` is never refused.
//!
//! - A state up to a second and a window ahead of the clock is believed, and charged as if its window had come: a
//!   clock that goes back by less refills nothing. One that goes back by more refills.
//! - After 2^24 windows the numbers repeat (194 days of seconds, 4.6 hours of milliseconds). A source idle for so
//!   long, or up to a second and a window less, finds its last use counted again until that window ends.
//! - The clock's own wrap (584 years of ns) starts a window anew.

use super::window::{Age, Clock};
use super::{FRESH, Params};

const USED_BITS: u32 = 40;
const USED_MASK: u64 = (1 << USED_BITS) - 1;
const NUMBER_MASK: u64 = (1 << (64 - USED_BITS)) - 1;

/// The most that one window can count.
pub(super) const MAX_AMOUNT: u64 = USED_MASK;

/// How many windows ahead of the clock the state counts, and what is used there.
#[inline(always)]
fn read(params: &Params, clock: Clock, state: u64) -> (u64, u64) {
    match clock.age(params, state, state >> USED_BITS, NUMBER_MASK) {
        Age::Ahead(ahead) => (ahead, state & USED_MASK),
        Age::Previous | Age::Gone => (0, 0),
    }
}

#[inline(always)]
pub(super) fn admit(params: &Params, state: u64, now_ns: u64, cost: u64) -> Option<u64> {
    let clock = Clock::read(params, now_ns, NUMBER_MASK)?;
    let (ahead, used) = read(params, clock, state);
    let used = used.wrapping_add(cost);
    if used > params.burst {
        return None;
    }
    let number = clock.number.wrapping_add(ahead) & NUMBER_MASK;
    Some(number << USED_BITS | (used & USED_MASK))
}

#[inline(always)]
pub(super) fn retry_after_ns(params: &Params, state: u64, now_ns: u64) -> u64 {
    match Clock::read(params, now_ns, NUMBER_MASK) {
        Some(clock) => clock.end_ns(params, read(params, clock, state).0),
        None => super::NEVER,
    }
}

#[inline]
pub(super) fn remaining(params: &Params, state: u64, now_ns: u64) -> u64 {
    match Clock::read(params, now_ns, NUMBER_MASK) {
        Some(clock) => params.burst.saturating_sub(read(params, clock, state).1),
        None => 0,
    }
}

#[inline]
pub(super) fn reset_after_ns(params: &Params, state: u64, now_ns: u64) -> u64 {
    match Clock::read(params, now_ns, NUMBER_MASK) {
        Some(clock) => match read(params, clock, state) {
            (_, 0) => 0,
            (ahead, _) => clock.end_ns(params, ahead),
        },
        None => super::NEVER,
    }
}

#[inline(always)]
pub(super) fn settled(params: &Params, state: u64, now_ns: u64) -> u64 {
    match Clock::read(params, now_ns, NUMBER_MASK) {
        Some(clock) if read(params, clock, state).1 == 0 => FRESH,
        _ => state,
    }
}

/// The less and the more used of two states that are less than 2^23 windows apart.
#[inline(always)]
pub(super) fn order(a: u64, b: u64) -> (u64, u64) {
    // The number lies on top: as the difference of whole states wraps, so does that of their numbers.
    let b_is_more = b.wrapping_sub(a) < 1 << 63;
    if a == FRESH || (b != FRESH && b_is_more) {
        (a, b)
    } else {
        (b, a)
    }
}
