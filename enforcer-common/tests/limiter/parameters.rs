//! Which limits there can be, and what is said about the others.

use enforcer_common::limiter::{
    Algorithm, FRESH, MAX_BURST_NS, MAX_FAST_BURST_NS, MAX_PERIOD_NS, MIN_WINDOW_NS, Params, ParamsError,
};

use crate::arrivals::{DAY, SECOND};

const HOUR: u64 = 3600 * SECOND;

#[test]
fn limits_that_can_be_and_cannot_be() {
    use Algorithm::{FixedWindow, LeakyBucket, SlidingWindow, TokenBucket};
    use ParamsError::{AmountTooLarge, BurstTooLong, TooFast, TooSlow, Zero};
    for (algorithm, amount, period, burst, expected) in [
        (TokenBucket, 1, HOUR, 1, Ok(1)),
        (TokenBucket, 1, DAY, 30, Ok(30)),
        (LeakyBucket, 12_500_000_000, SECOND, 1_000_000, Ok(1_000_000)),
        (TokenBucket, 256_000_000_000, SECOND, 1, Ok(1)),
        (TokenBucket, 2, 2 * MAX_PERIOD_NS, 1, Ok(1)),
        (FixedWindow, 1, MIN_WINDOW_NS, 0, Ok(1)),
        (FixedWindow, (1 << 40) - 1, DAY, 0, Ok((1 << 40) - 1)),
        (SlidingWindow, 4095 << 24, DAY, 0, Ok(4095 << 24)),
        (SlidingWindow, 1, MIN_WINDOW_NS, 0, Ok(1)),
        (TokenBucket, 0, SECOND, 1, Err(Zero)),
        (TokenBucket, 1, 0, 1, Err(Zero)),
        (LeakyBucket, 1, SECOND, 0, Err(Zero)),
        (FixedWindow, 0, SECOND, 0, Err(Zero)),
        (SlidingWindow, 1, 0, 0, Err(Zero)),
        (TokenBucket, 256_000_000_001, SECOND, 1, Err(TooFast)),
        (TokenBucket, u64::MAX, 1, 1, Err(TooFast)),
        (FixedWindow, 1, MIN_WINDOW_NS - 1, 0, Err(TooFast)),
        (SlidingWindow, 1, MIN_WINDOW_NS - 1, 0, Err(TooFast)),
        (TokenBucket, 1, MAX_PERIOD_NS + 1, 1, Err(TooSlow)),
        (LeakyBucket, 1, u64::MAX, 1, Err(TooSlow)),
        (FixedWindow, u64::MAX, MAX_PERIOD_NS + 1, 0, Err(TooSlow)),
        (SlidingWindow, 1, u64::MAX, 0, Err(TooSlow)),
        (TokenBucket, 1, DAY, 31, Err(BurstTooLong)),
        (
            TokenBucket,
            1,
            SECOND,
            MAX_BURST_NS / SECOND + 1,
            Err(BurstTooLong),
        ),
        (
            TokenBucket,
            1,
            SECOND,
            MAX_BURST_NS / SECOND,
            Ok(MAX_BURST_NS / SECOND),
        ),
        (LeakyBucket, 12_500_000_000, SECOND, u64::MAX, Err(BurstTooLong)),
        // 3 units in 200 ns need a fraction of 2^-8 ns; 4 in 256 ns do not.
        (
            TokenBucket,
            6,
            200,
            MAX_FAST_BURST_NS / 200 * 6 + 6,
            Err(BurstTooLong),
        ),
        (TokenBucket, 4, 256, MAX_FAST_BURST_NS, Ok(MAX_FAST_BURST_NS)),
        // A pace of just below 16 ns is rounded up to it: times 2^40 units that is 2^64.
        (
            TokenBucket,
            1_000_000_001,
            16 * SECOND,
            1 << 40,
            Err(BurstTooLong),
        ),
        (
            TokenBucket,
            1_000_000_001,
            16 * SECOND,
            (1 << 40) - 1,
            Ok((1 << 40) - 1),
        ),
        (FixedWindow, 1 << 40, SECOND, 0, Err(AmountTooLarge)),
        (SlidingWindow, (4095 << 24) + 1, SECOND, 0, Err(AmountTooLarge)),
    ] {
        let made = Params::new(algorithm, amount, period, burst);
        assert_eq!(
            made.map(|params| params.burst()),
            expected,
            "{algorithm:?}: {amount} per {period} ns, {burst} at once"
        );
        if let Ok(params) = made {
            assert_eq!(params.algorithm(), Some(algorithm));
            let full = params.charge(FRESH, DAY, params.burst());
            assert!(full.admitted());
            assert!(!params.charge(full.state, DAY, 1).admitted());
        }
    }
}

#[test]
fn the_rate_moves_and_the_burst_stays() {
    let bucket = Params::new(Algorithm::TokenBucket, 20_000, SECOND, 40_000).unwrap();
    assert_eq!(
        bucket.at_rate(2000, SECOND),
        Params::new(Algorithm::TokenBucket, 2000, SECOND, 40_000)
    );
    assert_eq!(bucket.at_rate(0, SECOND), Err(ParamsError::Zero));
    assert_eq!(bucket.at_rate(1, HOUR), Err(ParamsError::BurstTooLong));

    let window = Params::new(Algorithm::FixedWindow, 600, 60 * SECOND, 0).unwrap();
    assert_eq!(window.at_rate(1, SECOND).unwrap().burst(), 60);
    assert_eq!(window.at_rate(1, HOUR), Err(ParamsError::TooSlow));
    assert_eq!(window.at_rate(u64::MAX, 1), Err(ParamsError::AmountTooLarge));
}

#[test]
fn a_lowered_sliding_window_still_knows_the_previous_one() {
    let window = Params::new(Algorithm::SlidingWindow, 100_000, SECOND, 0).unwrap();
    let lowered = window.at_rate(10_000, SECOND).unwrap();
    let used = window.charge(FRESH, 5 * SECOND, 40_000);
    let next = window.charge(used.state, 6 * SECOND + SECOND / 2, 1);
    // Half of the previous window's 40,000 still counts, which is above all of the lowered limit.
    assert_eq!(lowered.remaining(next.state, 6 * SECOND + SECOND / 2), 0);
    // A tenth of it is 4000.
    let remaining = lowered.remaining(next.state, 6 * SECOND + 9 * SECOND / 10);
    assert!((5900..=5999).contains(&remaining), "{remaining}");
}

#[test]
fn each_error_says_what_would_be_right() {
    for (error, says) in [
        (ParamsError::TooFast, "at most 256 per nanosecond"),
        (ParamsError::TooSlow, "at least 1 per day"),
        (ParamsError::BurstTooLong, "lower the burst or raise the rate"),
        (ParamsError::AmountTooLarge, "use a shorter window"),
        (ParamsError::Zero, "zero never means unlimited"),
    ] {
        assert!(error.to_string().contains(says), "{error}");
    }
}
