//! Limiters whose whole state is one `u64`.

/// Which algorithm a limiter runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Algorithm {
    /// GCRA (ITU-T I.371): `burst` at once, then `rate`.
    TokenBucket = 1,
    /// As a meter: no more than `burst` in the bucket, which leaks at `rate`.
    LeakyBucket = 2,
    /// `amount` in each `period`, counted from the epoch of the clock.
    FixedWindow = 3,
    /// `amount` in any `period`, with the previous window weighed by how much of it still counts.
    SlidingWindow = 4,
}

/// What a limiter runs with. Integers only: it lies in kernel maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Params {
    algorithm: u32,
    reserved: u32,
    /// Bucket: 2^-20 ns for one unit of cost. Window: its length in ns.
    pace: u64,
    /// The most that may come at once (bucket) or in one window, in units of cost.
    burst: u64,
}

/// Why parameters are impossible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamsError {
    /// The rate is above what the clock resolves.
    TooFast,
    /// The rate is below one per [`MAX_PERIOD_NS`].
    TooSlow,
    /// The burst takes longer to refill than the state can express.
    BurstTooLong,
    /// The window's amount does not fit.
    AmountTooLarge,
    /// A zero: zero is never unlimited.
    Zero,
}

/// What a limiter says to one cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The state to store; the old one when refused.
    pub state: u64,
    /// Zero when admitted; else how long until the same cost would be, in ns. `u64::MAX`: never.
    pub retry_after_ns: u64,
}

/// The state of a limiter that has seen nothing.
pub const FRESH: u64 = 0;

/// The longest period of a rate: a day.
pub const MAX_PERIOD_NS: u64 = 24 * 3600 * 1_000_000_000;

impl Decision {
    /// Whether the cost is admitted.
    #[inline(always)]
    #[must_use]
    pub const fn admitted(&self) -> bool {
        self.retry_after_ns == 0
    }
}

impl Params {
    /// `amount` per `period_ns`, with `burst` at once (ignored by the window algorithms).
    ///
    /// # Errors
    /// Why no limiter can do that.
    pub const fn new(
        algorithm: Algorithm,
        amount: u64,
        period_ns: u64,
        burst: u64,
    ) -> Result<Self, ParamsError> {
        let _ = (amount, period_ns);
        Ok(Self {
            algorithm: algorithm as u32,
            reserved: 0,
            pace: 0,
            burst,
        })
    }

    /// Charges `cost` at `now_ns`.
    #[inline(always)]
    #[must_use]
    pub fn charge(&self, state: u64, now_ns: u64, cost: u64) -> Decision {
        let _ = (now_ns, cost);
        Decision {
            state,
            retry_after_ns: 0,
        }
    }

    /// How much could be admitted at once at `now_ns`, in units of cost.
    #[must_use]
    pub fn remaining(&self, state: u64, now_ns: u64) -> u64 {
        let _ = (state, now_ns);
        self.burst
    }

    /// How long until the whole of [`Self::remaining`]'s most is there again, in ns.
    #[must_use]
    pub fn reset_after_ns(&self, state: u64, now_ns: u64) -> u64 {
        let _ = (state, now_ns);
        0
    }

    /// The state that has been used more, of two of the same limiter.
    #[inline(always)]
    #[must_use]
    pub fn more_used(&self, a: u64, b: u64) -> u64 {
        let _ = b;
        a
    }
}
impl Params {
    /// Whether `a` has been used more than `b`.
    #[inline(always)]
    #[must_use]
    pub fn is_more_used(&self, a: u64, b: u64) -> bool {
        a > b
    }
}
