//! What a limiter runs with: validated once, then only integers in a map.

use core::fmt;
use core::mem::{align_of, offset_of, size_of};

use super::{fixed_window, sliding_window, token_bucket};

/// Which algorithm a limiter runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Algorithm {
    /// GCRA (ITU-T I.371): `burst` at once, then `rate`.
    TokenBucket = 1,
    /// A queue that holds `burst` and drains at `rate`; who does not fit is refused, who does waits.
    LeakyBucket = 2,
    /// `amount` in each `period`, counted from the epoch of the clock.
    FixedWindow = 3,
    /// `amount` in any `period`, with the previous window weighed by how much of it still counts.
    SlidingWindow = 4,
}

/// What a limiter runs with. Integers only: it lies in kernel maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Params {
    /// An [`Algorithm`]; any other number refuses every cost.
    pub(super) algorithm: u32,
    /// Bucket: how many of `pace`'s bits are a fraction. Sliding window: log2 of the quantum in which the
    /// previous window's use is kept.
    pub(super) shift: u32,
    /// Bucket: time for one unit of cost, in 2^-8 ns, with a fraction of `shift` bits. Window: its length in
    /// ns.
    pub(super) pace: u64,
    /// The most that may come at once (bucket) or in one window, in units of cost.
    pub(super) burst: u64,
    /// Bucket: how far ahead of the clock the state may run, in 2^-8 ns. Window: how many windows ahead of
    /// the clock a state is still believed.
    pub(super) ahead: u64,
}

const _: () = {
    assert!(size_of::<Params>() == 32 && align_of::<Params>() == 8);
    assert!(offset_of!(Params, algorithm) == 0 && offset_of!(Params, shift) == 4);
    assert!(offset_of!(Params, pace) == 8 && offset_of!(Params, burst) == 16);
    assert!(offset_of!(Params, ahead) == 24);
};

/// Why parameters are impossible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamsError {
    /// A bucket's rate is above 256 per ns, or a window is shorter than [`MIN_WINDOW_NS`].
    TooFast,
    /// A bucket's rate is below one per [`MAX_PERIOD_NS`], or a window is longer than that.
    TooSlow,
    /// A bucket's burst takes longer to refill than [`MAX_BURST_NS`], or [`MAX_FAST_BURST_NS`] where that
    /// holds.
    BurstTooLong,
    /// The window's amount does not fit its state: 2^40 - 1 (fixed) or 4095 · 2^24 (sliding).
    AmountTooLarge,
    /// A zero: zero is never unlimited.
    Zero,
}

impl fmt::Display for ParamsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooFast => "the rate is too high: at most 256 per nanosecond, and no window below 1 ms",
            Self::TooSlow => "the rate is too low: at least 1 per day, and no window above a day",
            Self::BurstTooLong => {
                "the burst takes too long to refill: at most 30 days (4 hours above 15 million per second); \
                 lower the burst or raise the rate"
            }
            Self::AmountTooLarge => {
                "the amount per window is too large: at most 1099511627775 (fixed window) or 68702699520 \
                 (sliding window); use a shorter window"
            }
            Self::Zero => "amount, period and burst must be at least 1: zero never means unlimited",
        })
    }
}

impl core::error::Error for ParamsError {}

/// The longest period of a rate, and the longest window: a day.
pub const MAX_PERIOD_NS: u64 = 24 * 3600 * 1_000_000_000;

/// The shortest window. Below, the numbers of windows would repeat within a minute.
pub const MIN_WINDOW_NS: u64 = 1_000_000;

/// The longest that a bucket may take to refill: 30 days.
pub const MAX_BURST_NS: u64 = 30 * MAX_PERIOD_NS;

/// The longest that a bucket may take to refill if a unit of cost lasts under 64 ns and not a whole number of
/// 2^-8 ns, as its pace then needs bits for a fraction: 4.8 hours. A burst times its pace must stay below
/// 2^64.
pub const MAX_FAST_BURST_NS: u64 = (1 << 44) - 1;

/// How much a window's state may be ahead of the clock: a thread that read the clock and was then preempted.
const WINDOW_SKEW_NS: u64 = 1_000_000_000;

impl Params {
    /// What a map is born with: every cost is refused.
    pub const REFUSE_ALL: Self = Self {
        algorithm: 0,
        shift: 0,
        pace: 0,
        burst: 0,
        ahead: 0,
    };

    /// `amount` per `period_ns`, with `burst` at once (ignored by the window algorithms).
    ///
    /// # Errors
    /// Why no limiter can do that.
    #[inline]
    pub const fn new(
        algorithm: Algorithm,
        amount: u64,
        period_ns: u64,
        burst: u64,
    ) -> Result<Self, ParamsError> {
        if amount == 0 || period_ns == 0 {
            return Err(ParamsError::Zero);
        }
        match algorithm {
            Algorithm::TokenBucket | Algorithm::LeakyBucket => {
                Self::bucket(algorithm, amount, period_ns, burst)
            }
            Algorithm::FixedWindow => Self::window(algorithm, amount, period_ns, fixed_window::MAX_AMOUNT, 0),
            Algorithm::SlidingWindow => {
                let shift = sliding_window::quantum_shift(amount);
                Self::window(algorithm, amount, period_ns, sliding_window::MAX_AMOUNT, shift)
            }
        }
    }

    /// The same limiter at another rate: for who lowers and raises limits while their states live on.
    ///
    /// A bucket keeps its burst. A window keeps its length, and gets what `amount` per `period_ns` makes in
    /// it, rounded down. Derive each from the highest rate, not from one another: a sliding window keeps the
    /// quantum of what it is derived from, so that both read the same from a state.
    ///
    /// # Errors
    /// Why no limiter can do that.
    #[inline]
    pub const fn at_rate(&self, amount: u64, period_ns: u64) -> Result<Self, ParamsError> {
        let Some(algorithm) = self.algorithm() else {
            return Err(ParamsError::Zero);
        };
        if amount == 0 || period_ns == 0 {
            return Err(ParamsError::Zero);
        }
        if matches!(algorithm, Algorithm::TokenBucket | Algorithm::LeakyBucket) {
            return Self::new(algorithm, amount, period_ns, self.burst);
        }
        let in_window = amount as u128 * self.pace as u128 / period_ns as u128;
        if in_window == 0 {
            return Err(ParamsError::TooSlow);
        }
        if in_window > fixed_window::MAX_AMOUNT as u128 {
            return Err(ParamsError::AmountTooLarge);
        }
        match Self::new(algorithm, in_window as u64, self.pace, 0) {
            Ok(mut params) => {
                // States hold the previous window's use in the quantum that they were written with.
                if params.shift < self.shift {
                    params.shift = self.shift;
                }
                Ok(params)
            }
            Err(error) => Err(error),
        }
    }

    /// The algorithm; `None` if nobody built these parameters.
    #[inline(always)]
    #[must_use]
    pub const fn algorithm(&self) -> Option<Algorithm> {
        match self.algorithm {
            super::TOKEN_BUCKET => Some(Algorithm::TokenBucket),
            super::LEAKY_BUCKET => Some(Algorithm::LeakyBucket),
            super::FIXED_WINDOW => Some(Algorithm::FixedWindow),
            super::SLIDING_WINDOW => Some(Algorithm::SlidingWindow),
            _ => None,
        }
    }

    /// The same, for who has just told its algorithm apart: the compiler then leaves the others out of
    /// what follows.
    #[inline(always)]
    #[must_use]
    pub const fn known_as(self, algorithm: Algorithm) -> Self {
        Self {
            algorithm: algorithm as u32,
            ..self
        }
    }

    /// The most that may come at once (bucket) or in one window, in units of cost.
    #[inline]
    #[must_use]
    pub const fn burst(&self) -> u64 {
        self.burst
    }

    /// How long the limiter remembers, in ns: a bucket, until it is full again; a window, its length. A clock
    /// that is behind by a part of this makes the limiter wrong by that part.
    #[inline]
    #[must_use]
    pub const fn span_ns(&self) -> u64 {
        match self.algorithm() {
            Some(Algorithm::TokenBucket | Algorithm::LeakyBucket) => self.ahead >> token_bucket::SCALE_BITS,
            Some(Algorithm::FixedWindow | Algorithm::SlidingWindow) => self.pace,
            None => u64::MAX,
        }
    }

    const fn bucket(
        algorithm: Algorithm,
        amount: u64,
        period_ns: u64,
        burst: u64,
    ) -> Result<Self, ParamsError> {
        if burst == 0 {
            return Err(ParamsError::Zero);
        }
        if period_ns as u128 > amount as u128 * MAX_PERIOD_NS as u128 {
            return Err(ParamsError::TooSlow);
        }
        let Some((pace, shift)) = token_bucket::pace(amount, period_ns) else {
            return Err(ParamsError::TooFast);
        };
        let ahead = (pace as u128 * burst as u128).div_ceil(1 << shift);
        let longest = if shift == 0 {
            MAX_BURST_NS
        } else {
            MAX_FAST_BURST_NS
        };
        if ahead > token_bucket::scaled(longest) as u128 {
            return Err(ParamsError::BurstTooLong);
        }
        Ok(Self {
            algorithm: algorithm as u32,
            shift,
            pace,
            burst,
            ahead: ahead as u64,
        })
    }

    const fn window(
        algorithm: Algorithm,
        amount: u64,
        period_ns: u64,
        most: u64,
        shift: u32,
    ) -> Result<Self, ParamsError> {
        if period_ns < MIN_WINDOW_NS {
            return Err(ParamsError::TooFast);
        }
        if period_ns > MAX_PERIOD_NS {
            return Err(ParamsError::TooSlow);
        }
        if amount > most {
            return Err(ParamsError::AmountTooLarge);
        }
        Ok(Self {
            algorithm: algorithm as u32,
            shift,
            pace: period_ns,
            burst: amount,
            ahead: WINDOW_SKEW_NS / period_ns + 1,
        })
    }
}
