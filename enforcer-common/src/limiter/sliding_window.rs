//! The sliding window, as two windows: the current one, and the previous one weighed by how much of it still
//! counts.
//!
//! A cost is admitted if `current + cost + previous · left / period <= amount`, where `left` is what is left
//! of the current window. The state is the current window's number, modulo 2^16; 12 bits of what was used in
//! the previous one; 36 bits of what was used in this one. The previous use is kept in quanta, the smallest
//! power of two that makes `amount` at most 4095 of them: exact for amounts up to 4095, else rounded up by
//! less than 1/2048 of it.
//!
//! At most `amount` is admitted in each window. In any interval of length `d` at most
//!
//! `amount + amount · d / period`
//!
//! as for a token bucket with a burst of `amount`. Proof: say the interval begins in window 0, where it holds
//! `x`, and ends in window `n`, `e` after its start. If `n` is 0, `x <= amount`. Else window `n - 1` holds
//! some `u` in all (`u >= x` if `n` is 1), so window `n` holds at most `amount - u · (1 - e / period)`, and
//! the `n - 2` between at most `amount` each: together at most `n · amount + amount · e / period`, while `d
//! >= (n - 1) · period + e`. It is attained: `amount` just before a border, and `amount` as it is forgotten.
//!
//! A source of even pace with costs of `c` is never refused at up to `(amount - 2 · (c + quantum)) / period`;
//! nor is `amount` at once after two windows of silence.
//!
//! - A state up to a second and a window ahead of the clock is believed, and charged as at the start of its
//!   window: a clock that goes back by less refills nothing. One that goes back by more refills.
//! - After 2^16 windows the numbers repeat (18 hours of seconds, 65 s of milliseconds). A source idle for so
//!   long, or up to a second and a window less, or a window more, finds its last use counted again, until two
//!   windows later.
//! - The clock's own wrap (584 years of ns) starts a window anew.

use super::window::Clock;
use super::{FRESH, Params};

const CURRENT_BITS: u32 = 36;
const CURRENT_MASK: u64 = (1 << CURRENT_BITS) - 1;
const PREVIOUS_MASK: u64 = (1 << 12) - 1;
const NUMBER_SHIFT: u32 = 48;
const NUMBER_MASK: u64 = (1 << (64 - NUMBER_SHIFT)) - 1;

/// The largest quantum is 2^24, as 12 bits of them are the 36 of the current use.
const MAX_SHIFT: u32 = 24;

/// The most that one window can count.
pub(super) const MAX_AMOUNT: u64 = PREVIOUS_MASK << MAX_SHIFT;

/// A weighed use is computed to 1/32 of a quantum: 12 bits of quanta, 47 bits of a day, and 5 are below 64.
const WEIGHED_BITS: u32 = 5;

/// What is used, as of one window.
#[derive(Clone, Copy)]
struct Use {
    /// In quanta.
    previous: u64,
    current: u64,
}

/// A state, seen at a time.
struct View {
    used: Use,
    clock: Clock,
    /// What is left of the window that is charged, once it has begun, in ns.
    left_ns: u64,
}

/// The smallest quantum, as a power of two, of which `amount` is at most 4095.
pub(super) const fn quantum_shift(amount: u64) -> u32 {
    let mut shift = 0;
    while shift < MAX_SHIFT && amount > PREVIOUS_MASK << shift {
        shift += 1;
    }
    shift
}

/// The parameters' quantum, in a range in which no shift below can overflow.
#[inline(always)]
fn shift(params: &Params) -> u32 {
    if params.shift < MAX_SHIFT {
        params.shift
    } else {
        MAX_SHIFT
    }
}

/// The bits of a quantum's fraction to which a weighed use is computed.
#[inline(always)]
fn fraction(shift: u32) -> u32 {
    if shift < WEIGHED_BITS { shift } else { WEIGHED_BITS }
}

impl Use {
    const NONE: Self = Self {
        previous: 0,
        current: 0,
    };

    #[inline(always)]
    const fn of(state: u64) -> Self {
        Self {
            previous: state >> CURRENT_BITS & PREVIOUS_MASK,
            current: state & CURRENT_MASK,
        }
    }

    #[inline(always)]
    const fn in_window(self, number: u64) -> u64 {
        (number & NUMBER_MASK) << NUMBER_SHIFT
            | (self.previous & PREVIOUS_MASK) << CURRENT_BITS
            | (self.current & CURRENT_MASK)
    }

    /// The same use, seen from the next window.
    #[inline(always)]
    fn one_later(self, shift: u32) -> Self {
        let quanta = self.current.wrapping_add((1 << shift) - 1) >> shift;
        Self {
            previous: if quanta < PREVIOUS_MASK {
                quanta
            } else {
                PREVIOUS_MASK
            },
            current: 0,
        }
    }

    /// What counts with `left_ns` of the window left, rounded up.
    #[inline(always)]
    fn weighed(self, params: &Params, left_ns: u64) -> u64 {
        let shift = shift(params);
        let fraction = fraction(shift);
        let previous = self.previous.wrapping_mul(left_ns) << fraction;
        let rounded_up = previous.wrapping_add(params.pace).wrapping_sub(1);
        let previous = rounded_up / if params.pace == 0 { 1 } else { params.pace };
        let previous = previous << shift.wrapping_sub(fraction);
        self.current.wrapping_add(previous)
    }

    /// With how much of the window left `room` is enough for the previous use: zero for not in this window.
    #[inline(always)]
    fn fits_with_left_ns(self, params: &Params, room: u64) -> u64 {
        let shift = shift(params);
        let fraction = fraction(shift);
        let room = (room >> shift.wrapping_sub(fraction)).wrapping_mul(params.pace);
        let left_ns = room.checked_div(self.previous << fraction).unwrap_or(params.pace);
        if left_ns < params.pace {
            left_ns
        } else {
            params.pace
        }
    }
}

impl View {
    #[inline(always)]
    fn of(params: &Params, state: u64, now_ns: u64) -> Self {
        let clock = Clock::read(params, now_ns, state, state >> NUMBER_SHIFT, NUMBER_MASK);
        let used = Use::of(state);
        let used = if clock.is_current {
            used
        } else if clock.is_previous {
            used.one_later(shift(params))
        } else {
            Use::NONE
        };
        Self {
            used,
            clock,
            left_ns: clock.left_ns(params),
        }
    }
}

#[inline(always)]
pub(super) fn admit(params: &Params, state: u64, now_ns: u64, cost: u64) -> Option<u64> {
    let view = View::of(params, state, now_ns);
    if view.used.weighed(params, view.left_ns).wrapping_add(cost) > params.burst {
        return None;
    }
    let used = Use {
        previous: view.used.previous,
        current: view.used.current.wrapping_add(cost),
    };
    Some(used.in_window(view.clock.number))
}

#[cfg(not(target_arch = "bpf"))]
pub(super) fn debit(params: &Params, state: u64, now_ns: u64, cost: u64) -> u64 {
    let view = View::of(params, state, now_ns);
    let used = Use {
        previous: view.used.previous,
        current: view.used.current.saturating_add(cost).min(CURRENT_MASK),
    };
    used.in_window(view.clock.number)
}

#[inline(always)]
pub(super) fn retry_after_ns(params: &Params, state: u64, now_ns: u64, cost: u64) -> u64 {
    let view = View::of(params, state, now_ns);
    let end_ns = view.clock.end_ns(params);
    let current = view.used.current.wrapping_add(cost);
    if current <= params.burst {
        // In this window, as the previous one's use is forgotten.
        let left_ns = view
            .used
            .fits_with_left_ns(params, params.burst.wrapping_sub(current));
        if left_ns != 0 {
            return end_ns.saturating_sub(left_ns);
        }
    }
    // In the next one, as this one's is; or, where that is never enough, in the one after.
    let next = view.used.one_later(shift(params));
    let left_ns = next.fits_with_left_ns(params, params.burst.saturating_sub(cost));
    end_ns.wrapping_add(params.pace.wrapping_sub(left_ns))
}

#[inline]
pub(super) fn remaining(params: &Params, state: u64, now_ns: u64) -> u64 {
    let view = View::of(params, state, now_ns);
    params
        .burst
        .saturating_sub(view.used.weighed(params, view.left_ns))
}

#[inline]
pub(super) fn reset_after_ns(params: &Params, state: u64, now_ns: u64) -> u64 {
    let view = View::of(params, state, now_ns);
    let end_ns = view.clock.end_ns(params);
    match (view.used.previous, view.used.current) {
        (0, 0) => 0,
        (_, 0) => end_ns,
        _ => end_ns.wrapping_add(params.pace),
    }
}

#[inline(always)]
pub(super) fn settled(params: &Params, state: u64, now_ns: u64) -> u64 {
    let used = View::of(params, state, now_ns).used;
    if used.current == 0 && used.previous == 0 {
        FRESH
    } else {
        state
    }
}

/// Both uses as of the later of their windows, and its number; windows at most 2^15 apart.
#[inline(always)]
fn aligned(params: &Params, a: u64, b: u64) -> (Use, Use, u64) {
    let shift = shift(params);
    let (number_a, number_b) = (a >> NUMBER_SHIFT, b >> NUMBER_SHIFT);
    let b_later_by = number_b.wrapping_sub(number_a) & NUMBER_MASK;
    let a_later_by = number_a.wrapping_sub(number_b) & NUMBER_MASK;
    if b_later_by <= NUMBER_MASK >> 1 {
        (later(Use::of(a), b_later_by, shift), Use::of(b), number_b)
    } else {
        (Use::of(a), later(Use::of(b), a_later_by, shift), number_a)
    }
}

#[inline(always)]
fn later(used: Use, windows: u64, shift: u32) -> Use {
    match windows {
        0 => used,
        1 => used.one_later(shift),
        _ => Use::NONE,
    }
}

#[inline(always)]
pub(super) fn more_used(params: &Params, a: u64, b: u64) -> u64 {
    if a == FRESH || b == FRESH {
        return a | b;
    }
    let (a, b, number) = aligned(params, a, b);
    Use {
        previous: if a.previous < b.previous {
            b.previous
        } else {
            a.previous
        },
        current: if a.current < b.current {
            b.current
        } else {
            a.current
        },
    }
    .in_window(number)
}

#[inline(always)]
pub(super) fn less_used(params: &Params, a: u64, b: u64) -> u64 {
    if a == FRESH || b == FRESH {
        return FRESH;
    }
    let (a, b, number) = aligned(params, a, b);
    Use {
        previous: if a.previous < b.previous {
            a.previous
        } else {
            b.previous
        },
        current: if a.current < b.current {
            a.current
        } else {
            b.current
        },
    }
    .in_window(number)
}
