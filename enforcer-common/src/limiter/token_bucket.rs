//! The token bucket, as GCRA: the generic cell rate algorithm, in its form of virtual scheduling.
//!
//! Source: ITU-T I.371 (2004), annex A; ATM Forum Traffic Management 4.1, section 4.4.2. GCRA(I, L) there
//! takes cells of one size; a cost of `c` is `c` cells at once, and `burst` cells at once are L = (burst -
//! 1)·I there.
//!
//! The state is the theoretical arrival time (TAT): when the bucket would be full again. A cost moves it by
//! `cost · period / amount`, from now or from where it is, whichever is later; the cost conforms if it then
//! is no more than the time of a whole burst ahead of now. From that follows, for any interval of length `d`:
//!
//! `admitted <= burst + amount · d / period`
//!
//! up to the resolution: what the rate makes in 2^-8 ns. A source that keeps to that bound is never refused
//! as long as a unit of cost lasts 64 ns or more, or a whole number of 2^-8 ns, for then no charge is
//! rounded; the pace is, upwards by at most 1 in 16,384. Below, each charge is rounded up by less than 2^-8
//! ns: under 0.1 % for charges that are worth 4 ns or more (50 bytes at 100 Gbit/s).
//!
//! Time is a wrapping count of 2^-8 ns: a turn is 2^56 ns, 833 days.
//! - A TAT up to a burst and a day ahead of now is believed: a clock that goes back by up to a day refills
//!   nothing, it refuses until it has caught up. So is one that slower parameters wrote.
//! - Any other TAT is past, and the bucket full. So a clock that goes back by more than that refills.
//! - A bucket idle for a whole turn, less at most a burst and a day, looks as if in use: it may refuse for as
//!   long.

use super::{FRESH, Params, params};

/// A full turn of the state is 2^64 of these: 2^-8 ns.
pub(super) const SCALE_BITS: u32 = 8;

/// How far a TAT may be ahead of now beyond a burst, and be believed.
const SKEW: u64 = scaled(params::MAX_PERIOD_NS);

/// Bits of the pace's fraction where a whole number of 2^-8 ns would be too coarse.
const FRACTION_BITS: u32 = 12;

/// From here on a pace is rounded up to a whole number of 2^-8 ns: 64 ns.
const COARSE_PACE: u128 = 1 << 14;

/// Nanoseconds in the unit of the state.
#[inline(always)]
pub(super) const fn scaled(ns: u64) -> u64 {
    ns << SCALE_BITS
}

/// Rounded up, so that a wait is long enough.
#[inline(always)]
const fn unscaled(time: u64) -> u64 {
    time.wrapping_add((1 << SCALE_BITS) - 1) >> SCALE_BITS
}

/// Time per unit of cost and the bits of its fraction, or `None` if it is below 2^-8 ns.
///
/// The period is at most a day for each of `amount`, so the pace fits.
pub(super) const fn pace(amount: u64, period_ns: u64) -> Option<(u64, u32)> {
    let period = (period_ns as u128) << SCALE_BITS;
    let amount = amount as u128;
    let whole = period / amount;
    if whole == 0 {
        return None;
    }
    if whole >= COARSE_PACE || whole * amount == period {
        return Some((period.div_ceil(amount) as u64, 0));
    }
    Some(((period << FRACTION_BITS).div_ceil(amount) as u64, FRACTION_BITS))
}

/// How far the TAT is ahead of now: zero for what is past, and for what is too far ahead to be true.
#[inline(always)]
fn ahead(params: &Params, state: u64, now: u64) -> u64 {
    let ahead = state.wrapping_sub(now);
    if state == FRESH || ahead > params.ahead.wrapping_add(SKEW) {
        0
    } else {
        ahead
    }
}

/// What a cost of at most a burst takes; `Params::new` has made sure that the product fits.
#[inline(always)]
fn increment(params: &Params, cost: u64) -> u64 {
    let shift = params.shift & 63;
    let round_up = (1_u64 << shift).wrapping_sub(1);
    cost.wrapping_mul(params.pace).wrapping_add(round_up) >> shift
}

#[inline(always)]
pub(super) fn admit(params: &Params, state: u64, now_ns: u64, cost: u64) -> Option<u64> {
    let now = scaled(now_ns);
    let ahead = ahead(params, state, now).wrapping_add(increment(params, cost));
    if ahead > params.ahead {
        return None;
    }
    let tat = now.wrapping_add(ahead);
    // Zero is taken: the next instant is stricter by 2^-8 ns.
    Some(if tat == FRESH { 1 } else { tat })
}

/// The most that a debit leaves the TAT ahead beyond a burst: half of what is believed, so that it is also by a
/// clock that goes back by half a day.
#[cfg(not(target_arch = "bpf"))]
const MAX_DEBT: u64 = SKEW / 2;

#[cfg(not(target_arch = "bpf"))]
pub(super) fn debit(params: &Params, state: u64, now_ns: u64, cost: u64) -> u64 {
    let now = scaled(now_ns);
    let shift = params.shift & 63;
    let spent = (u128::from(cost) * u128::from(params.pace)).div_ceil(1 << shift);
    let most = u128::from(params.ahead.saturating_add(MAX_DEBT));
    let before = u128::from(ahead(params, state, now));
    // A debt beyond the most is the parameters' that wrote it: it is kept.
    let ahead = (before + spent).min(most).max(before);
    let tat = now.wrapping_add(ahead as u64);
    if tat == FRESH { 1 } else { tat }
}

#[inline(always)]
pub(super) fn retry_after_ns(params: &Params, state: u64, now_ns: u64, cost: u64) -> u64 {
    let ahead = ahead(params, state, scaled(now_ns)).wrapping_add(increment(params, cost));
    unscaled(ahead.saturating_sub(params.ahead))
}

#[inline]
pub(super) fn remaining(params: &Params, state: u64, now_ns: u64) -> u64 {
    let free = params.ahead.saturating_sub(ahead(params, state, scaled(now_ns)));
    let units = (free << (params.shift & 63)).checked_div(params.pace);
    units.unwrap_or(0).min(params.burst)
}

/// Also how long the queue of a leaky bucket is.
#[inline(always)]
pub(super) fn reset_after_ns(params: &Params, state: u64, now_ns: u64) -> u64 {
    unscaled(ahead(params, state, scaled(now_ns)))
}

#[inline(always)]
pub(super) fn settled(params: &Params, state: u64, now_ns: u64) -> u64 {
    if ahead(params, state, scaled(now_ns)) == 0 {
        FRESH
    } else {
        state
    }
}

/// The earlier and the later of two TATs that are less than half a turn apart.
#[inline(always)]
pub(super) fn order(a: u64, b: u64) -> (u64, u64) {
    let b_is_later = b.wrapping_sub(a) < 1 << 63;
    if a == FRESH || (b != FRESH && b_is_later) {
        (a, b)
    } else {
        (b, a)
    }
}
