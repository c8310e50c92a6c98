//! The fixed window: so much in each, counted from the clock's zero.
//!
//! The state is the window's number, modulo 2^24, above 40 bits of what was used in it. At most `amount` is
//! admitted in each window, exactly; so across a border up to `2 · amount` at once, and in any interval of
//! length `d` at most `amount · (⌊d / period⌋ + 2)`. A source that never exceeds `amount` in any `period` is
//! never refused.
//!
//! - A state up to a second and a window ahead of the clock is believed, and charged as if its window had
//!   come: a clock that goes back by less refills nothing. One that goes back by more refills.
//! - After 2^24 windows the numbers repeat (194 days of seconds, 4.6 hours of milliseconds). A source idle
//!   for so long, or up to a second and a window less, finds its last use counted again until that window
//!   ends.
//! - The clock's own wrap (584 years of ns) starts a window anew.

use super::window::Clock;
use super::{FRESH, Params};

const USED_BITS: u32 = 40;
const USED_MASK: u64 = (1 << USED_BITS) - 1;
const NUMBER_MASK: u64 = (1 << (64 - USED_BITS)) - 1;

/// The most that one window can count.
pub(super) const MAX_AMOUNT: u64 = USED_MASK;

#[inline(always)]
fn clock(params: &Params, state: u64, now_ns: u64) -> Clock {
    Clock::read(params, now_ns, state, state >> USED_BITS, NUMBER_MASK)
}

/// What is used of the window that is charged.
#[inline(always)]
fn used(clock: &Clock, state: u64) -> u64 {
    if clock.is_current { state & USED_MASK } else { 0 }
}

#[inline(always)]
pub(super) fn admit(params: &Params, state: u64, now_ns: u64, cost: u64) -> Option<u64> {
    let clock = clock(params, state, now_ns);
    let used = used(&clock, state).wrapping_add(cost);
    if used > params.burst {
        return None;
    }
    Some(clock.number << USED_BITS | (used & USED_MASK))
}

#[cfg(not(target_arch = "bpf"))]
pub(super) fn debit(params: &Params, state: u64, now_ns: u64, cost: u64) -> u64 {
    let clock = clock(params, state, now_ns);
    let used = used(&clock, state).saturating_add(cost).min(USED_MASK);
    clock.number << USED_BITS | used
}

#[inline(always)]
pub(super) fn retry_after_ns(params: &Params, state: u64, now_ns: u64) -> u64 {
    clock(params, state, now_ns).end_ns(params)
}

#[inline]
pub(super) fn remaining(params: &Params, state: u64, now_ns: u64) -> u64 {
    params
        .burst
        .saturating_sub(used(&clock(params, state, now_ns), state))
}

#[inline]
pub(super) fn reset_after_ns(params: &Params, state: u64, now_ns: u64) -> u64 {
    let clock = clock(params, state, now_ns);
    if used(&clock, state) == 0 {
        0
    } else {
        clock.end_ns(params)
    }
}

#[inline(always)]
pub(super) fn settled(params: &Params, state: u64, now_ns: u64) -> u64 {
    if used(&clock(params, state, now_ns), state) == 0 {
        FRESH
    } else {
        state
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
