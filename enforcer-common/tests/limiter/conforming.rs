//! Who keeps to the limit is never refused.

use enforcer_common::limiter::FRESH;
use proptest::prelude::*;

use crate::arrivals::{Arrival, Limit, fast_bucket, fixed_window, sliding_window, slow_bucket, traffic};
use crate::oracle::{Bucket, Log};

/// Sends what `conforms` and holds back the rest; what is refused of that.
fn refused(
    limit: &Limit,
    start_ns: u64,
    arrivals: &[Arrival],
    mut conforms: impl FnMut(u64, u64) -> bool,
) -> Option<Arrival> {
    let (mut state, mut now) = (FRESH, start_ns);
    for &(gap, cost) in arrivals {
        now += gap;
        if !conforms(now, cost) {
            continue;
        }
        let decision = limit.params.charge(state, now, cost);
        if !decision.admitted() {
            return Some((now, cost));
        }
        state = decision.state;
    }
    None
}

/// What a sliding window promises per period to a source of even pace with one cost.
fn even_rate(limit: &Limit, cost: u64) -> u64 {
    let quantum = limit.amount.div_ceil(4095).next_power_of_two();
    limit.amount.saturating_sub(2 * (cost + quantum))
}

proptest! {
    #[test]
    fn buckets_admit_a_source_within_burst_and_rate((limit, start, arrivals) in traffic(slow_bucket(), 60)) {
        // An inexact pace is rounded up by at most 1 in 16,384: that much slower is slow enough.
        let (amount, period) = (u128::from(limit.amount), u128::from(limit.period));
        let (amount, period) =
            if limit.is_exact() { (amount, period) } else { (amount << 14, period * ((1 << 14) + 1)) };
        let mut exact = Bucket::new(amount, period, limit.burst);
        prop_assert_eq!(refused(&limit, start, &arrivals, |now, cost| exact.charge(now, cost)), None);
    }

    #[test]
    fn fast_buckets_admit_a_source_that_is_slightly_slower((limit, start, arrivals) in traffic(fast_bucket(), 60)) {
        let (amount, period) = (u128::from(limit.amount), u128::from(limit.period));
        // Charges below 4 ns are rounded by more.
        let least = u64::try_from(1024_u128.div_ceil(limit.pace())).unwrap();
        let burst = limit.burst - limit.burst.div_ceil(800);
        let mut exact = Bucket::new(amount * 799, period * 800, burst);
        let conforms = |now, cost| cost >= least && exact.charge(now, cost);
        prop_assert_eq!(refused(&limit, start, &arrivals, conforms), None);
    }

    #[test]
    fn fixed_windows_admit_a_source_within_the_amount_in_any_period(
        (limit, start, arrivals) in traffic(fixed_window(), 60),
    ) {
        let mut log = Log::new(limit.amount, limit.period);
        prop_assert_eq!(refused(&limit, start, &arrivals, |now, cost| log.charge(now, cost)), None);
    }

    #[test]
    fn sliding_windows_admit_a_source_of_even_pace(
        (limit, start, _) in traffic(sliding_window().prop_filter("too small", |l| even_rate(l, 1) > 0), 1),
        share in 1_u64..600,
    ) {
        let cost = (limit.amount / share).max(1);
        let cost = if even_rate(&limit, cost) > 0 { cost } else { 1 };
        let gap = (u128::from(cost) * u128::from(limit.period)).div_ceil(u128::from(even_rate(&limit, cost)));
        let gap = u64::try_from(gap).unwrap();
        let sends = (4 * limit.period / gap).min(2500);
        let arrivals = vec![(gap, cost); usize::try_from(sends).unwrap()];
        prop_assert_eq!(refused(&limit, start, &arrivals, |_, _| true), None);
    }

    #[test]
    fn sliding_windows_admit_all_after_two_windows_of_silence(
        (limit, start, arrivals) in traffic(sliding_window(), 20),
    ) {
        let (state, now) = crate::arrivals::run(&limit.params, start, &arrivals);
        prop_assert!(limit.params.charge(state, now + 2 * limit.period, limit.amount).admitted());
    }
}
