//! Limiters whose whole state is one `u64`.
//!
//! Each algorithm is a pure function from `(state, now, cost)` to a new state or a refusal. The kernel
//! programs and the agent run the same code, so it allocates nothing, loops never, cannot panic, and uses
//! 64-bit unsigned integers only; the buckets do not even divide. One compare-and-swap stores the outcome.
//!
//! What holds for all of them:
//! - [`FRESH`] (zero, as maps are born) is a limiter that has seen nothing.
//! - A refused charge changes nothing.
//! - A cost of 0 is always admitted and changes nothing. A cost above the limit is never admitted.
//! - A clock that is a little behind the state (two processors, a preempted thread) never refills a limiter.
//!   How much is "a little" is each algorithm's to say.
//! - Rounding is always against the source: it may admit a little less than configured, never more.
//! - Parameters that nobody built with [`Params::new`] (a map's zeroes) refuse every cost.
//!
//! What each admits, of `amount` per `period`, in any interval of length `d`:
//!
//! | algorithm | at most |
//! | --- | --- |
//! | token bucket, leaky bucket | `burst + amount·d/period` |
//! | fixed window | `amount·(⌊d/period⌋ + 2)`, and `amount` in each window |
//! | sliding window | `amount + amount·d/period`, and `amount` in each window |

#[cfg(not(target_arch = "bpf"))]
mod atomic;
mod fixed_window;
mod leaky_bucket;
mod params;
mod sliding_window;
mod token_bucket;
mod window;

#[cfg(not(target_arch = "bpf"))]
pub use atomic::{charge_atomic, debit_atomic};
pub use params::{
    Algorithm, MAX_BURST_NS, MAX_FAST_BURST_NS, MAX_PERIOD_NS, MIN_WINDOW_NS, Params, ParamsError,
};

/// The state of a limiter that has seen nothing.
pub const FRESH: u64 = 0;

/// The `retry_after_ns` of a cost that will never be admitted.
pub const NEVER: u64 = u64::MAX;

/// What a limiter says to one cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Decision {
    /// The state to store; the old one when refused.
    pub state: u64,
    /// Zero when admitted; else how long until the same cost would be, in ns, if nothing else arrives.
    /// [`NEVER`]: not however long one waits.
    pub retry_after_ns: u64,
    /// Leaky bucket only: how long an admitted cost stands in the queue before it leaves, in ns.
    /// Zero for the other algorithms, and for who is refused.
    pub delay_ns: u64,
}

impl Decision {
    /// Whether the cost is admitted.
    #[inline(always)]
    #[must_use]
    pub const fn admitted(&self) -> bool {
        self.retry_after_ns == 0
    }

    #[inline(always)]
    const fn admit(state: u64, delay_ns: u64) -> Self {
        Self {
            state,
            retry_after_ns: 0,
            delay_ns,
        }
    }

    #[inline(always)]
    const fn refuse(state: u64, retry_after_ns: u64) -> Self {
        Self {
            state,
            // Zero would mean admitted.
            retry_after_ns: if retry_after_ns == 0 { 1 } else { retry_after_ns },
            delay_ns: 0,
        }
    }
}

const TOKEN_BUCKET: u32 = Algorithm::TokenBucket as u32;
const LEAKY_BUCKET: u32 = Algorithm::LeakyBucket as u32;
const FIXED_WINDOW: u32 = Algorithm::FixedWindow as u32;
const SLIDING_WINDOW: u32 = Algorithm::SlidingWindow as u32;

impl Params {
    /// The state after `cost` at `now_ns`, or `None` if it is refused: all that a packet needs, and no more.
    #[inline(always)]
    #[must_use]
    pub fn admit(&self, state: u64, now_ns: u64, cost: u64) -> Option<u64> {
        if cost == 0 {
            return Some(state);
        }
        if cost > self.burst || self.pace == 0 {
            return None;
        }
        match self.algorithm {
            TOKEN_BUCKET | LEAKY_BUCKET => token_bucket::admit(self, state, now_ns, cost),
            FIXED_WINDOW => fixed_window::admit(self, state, now_ns, cost),
            SLIDING_WINDOW => sliding_window::admit(self, state, now_ns, cost),
            _ => None,
        }
    }

    /// Charges `cost` at `now_ns`.
    #[inline(always)]
    pub fn charge(&self, state: u64, now_ns: u64, cost: u64) -> Decision {
        match self.admit(state, now_ns, cost) {
            Some(next) if self.algorithm == LEAKY_BUCKET && cost != 0 => {
                Decision::admit(next, leaky_bucket::delay_ns(self, state, now_ns))
            }
            Some(next) => Decision::admit(next, 0),
            None => Decision::refuse(state, self.retry_after_ns(state, now_ns, cost)),
        }
    }

    /// The state after a `cost` that has been spent already, whatever is left: what is over is owed, and
    /// nothing is admitted until it has been made up for.
    ///
    /// A bucket owes up to half a day beyond its burst; what a window owes is forgotten with it.
    #[cfg(not(target_arch = "bpf"))]
    #[must_use]
    pub fn debit(&self, state: u64, now_ns: u64, cost: u64) -> u64 {
        if cost == 0 || self.pace == 0 {
            return state;
        }
        match self.algorithm {
            TOKEN_BUCKET | LEAKY_BUCKET => token_bucket::debit(self, state, now_ns, cost),
            FIXED_WINDOW => fixed_window::debit(self, state, now_ns, cost),
            SLIDING_WINDOW => sliding_window::debit(self, state, now_ns, cost),
            _ => state,
        }
    }

    /// How long until a refused `cost` would be admitted.
    #[inline(always)]
    fn retry_after_ns(&self, state: u64, now_ns: u64, cost: u64) -> u64 {
        if cost > self.burst || self.pace == 0 {
            return NEVER;
        }
        match self.algorithm {
            TOKEN_BUCKET | LEAKY_BUCKET => token_bucket::retry_after_ns(self, state, now_ns, cost),
            FIXED_WINDOW => fixed_window::retry_after_ns(self, state, now_ns),
            SLIDING_WINDOW => sliding_window::retry_after_ns(self, state, now_ns, cost),
            _ => NEVER,
        }
    }

    /// How much could be admitted at once at `now_ns`, in units of cost.
    #[inline]
    #[must_use]
    pub fn remaining(&self, state: u64, now_ns: u64) -> u64 {
        if self.pace == 0 {
            return 0;
        }
        match self.algorithm {
            TOKEN_BUCKET | LEAKY_BUCKET => token_bucket::remaining(self, state, now_ns),
            FIXED_WINDOW => fixed_window::remaining(self, state, now_ns),
            SLIDING_WINDOW => sliding_window::remaining(self, state, now_ns),
            _ => 0,
        }
    }

    /// How long until the whole of [`Self::remaining`]'s most is there again, in ns, if nothing arrives.
    #[inline]
    #[must_use]
    pub fn reset_after_ns(&self, state: u64, now_ns: u64) -> u64 {
        if self.pace == 0 {
            return NEVER;
        }
        match self.algorithm {
            TOKEN_BUCKET | LEAKY_BUCKET => token_bucket::reset_after_ns(self, state, now_ns),
            FIXED_WINDOW => fixed_window::reset_after_ns(self, state, now_ns),
            SLIDING_WINDOW => sliding_window::reset_after_ns(self, state, now_ns),
            _ => NEVER,
        }
    }

    /// The state, or [`FRESH`] if it no longer makes a difference at `now_ns`.
    ///
    /// Who forgets only limiters that are `FRESH` by this, refills none. Who compares states that may be old
    /// ([`Self::more_used`]) settles them first, as an old state's clock looks like a future one after half a
    /// turn.
    #[inline(always)]
    #[must_use]
    pub fn settled(&self, state: u64, now_ns: u64) -> u64 {
        match self.algorithm {
            TOKEN_BUCKET | LEAKY_BUCKET => token_bucket::settled(self, state, now_ns),
            FIXED_WINDOW => fixed_window::settled(self, state, now_ns),
            SLIDING_WINDOW => sliding_window::settled(self, state, now_ns),
            _ => state,
        }
    }

    /// The least state that is used at least as much as both: what a sketch stores in a cell.
    ///
    /// Whatever it admits at a time, both would have. Buckets and fixed windows: one of the two. Sliding
    /// windows: both are brought to the later window, and the larger of each window's use is taken. States
    /// must lie within half a turn of each other's clock (see [`Self::settled`]).
    #[inline(always)]
    #[must_use]
    pub fn more_used(&self, a: u64, b: u64) -> u64 {
        match self.algorithm {
            FIXED_WINDOW => fixed_window::order(a, b).1,
            SLIDING_WINDOW => sliding_window::more_used(self, a, b),
            _ => token_bucket::order(a, b).1,
        }
    }

    /// The greatest state that is used at most as much as both: what a sketch charges, over the cells of a
    /// key.
    ///
    /// The counterpart of [`Self::more_used`], under the same condition. If every cell is used at least as
    /// much as the key is in truth, so is this.
    #[inline(always)]
    #[must_use]
    pub fn less_used(&self, a: u64, b: u64) -> u64 {
        match self.algorithm {
            FIXED_WINDOW => fixed_window::order(a, b).0,
            SLIDING_WINDOW => sliding_window::less_used(self, a, b),
            _ => token_bucket::order(a, b).0,
        }
    }

    /// Whether of two states one is always used at least as much as the other. Then [`Self::less_used`] admits
    /// what one of them does, and nothing else: true of buckets and fixed windows.
    #[inline(always)]
    #[must_use]
    pub const fn orders_all(&self) -> bool {
        self.algorithm != SLIDING_WINDOW
    }

    /// Whether `a` never admits more than `b`, and is not `b`.
    ///
    /// A total order for buckets and fixed windows. Two sliding windows can each have more in one of their
    /// halves: then neither is more used.
    #[inline(always)]
    #[must_use]
    pub fn is_more_used(&self, a: u64, b: u64) -> bool {
        a != b && self.more_used(a, b) == a
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_that_nobody_built_refuse() {
        for algorithm in 0..6 {
            // A map's zeroes; and a burst without a rate.
            for burst in [0, 10] {
                let params = Params {
                    algorithm,
                    shift: 0,
                    pace: 0,
                    burst,
                    ahead: 0,
                };
                let refused = params.charge(7, 1_000_000_000, 1);
                assert_eq!((refused.state, refused.retry_after_ns), (7, NEVER), "{algorithm}");
                assert_eq!(params.remaining(FRESH, 1_000_000_000), 0, "{algorithm}");
            }
        }
    }
}
