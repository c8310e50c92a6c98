//! The limiters decide as exact arithmetic does; where they round, they admit within 0.1 % of it.

use enforcer_common::limiter::{Algorithm, FRESH};
use proptest::prelude::*;

use crate::arrivals::{Arrival, Limit, SECOND, exact_bucket, exact_sliding_window, fixed_window, traffic};
use crate::oracle::{Bucket, Windows};

fn first_difference(
    limit: &Limit,
    start_ns: u64,
    arrivals: &[Arrival],
    mut exact: impl FnMut(u64, u64) -> bool,
) -> Option<(u64, u64, bool)> {
    let (mut state, mut now) = (FRESH, start_ns);
    for &(gap, cost) in arrivals {
        now += gap;
        let decision = limit.params.charge(state, now, cost);
        if decision.admitted() != exact(now, cost) {
            return Some((now, cost, decision.admitted()));
        }
        state = decision.state;
    }
    None
}

fn oracle(limit: &Limit) -> Bucket {
    Bucket::new(u128::from(limit.amount), u128::from(limit.period), limit.burst)
}

proptest! {
    #[test]
    fn buckets_that_round_nothing_agree_in_every_decision((limit, start, arrivals) in traffic(exact_bucket(), 80)) {
        let mut exact = oracle(&limit);
        prop_assert_eq!(first_difference(&limit, start, &arrivals, |at, cost| exact.charge(at, cost)), None);
    }

    #[test]
    fn fixed_windows_agree_in_every_decision((limit, start, arrivals) in traffic(fixed_window(), 80)) {
        let mut exact = Windows::new(limit.amount, limit.period, false);
        prop_assert_eq!(first_difference(&limit, start, &arrivals, |at, cost| exact.charge(at, cost)), None);
    }

    #[test]
    fn sliding_windows_up_to_4095_agree_in_every_decision(
        (limit, start, arrivals) in traffic(exact_sliding_window(), 80),
    ) {
        let mut exact = Windows::new(limit.amount, limit.period, true);
        prop_assert_eq!(first_difference(&limit, start, &arrivals, |at, cost| exact.charge(at, cost)), None);
    }
}

/// What a limiter and exact arithmetic admit of the same long overload.
fn totals(limit: &Limit, arrivals: &[Arrival], mut exact: impl FnMut(u64, u64) -> bool) -> (u64, u64) {
    let (mut state, mut now) = (FRESH, 3 * SECOND);
    let (mut ours, mut theirs) = (0, 0);
    for &(gap, cost) in arrivals {
        now += gap;
        let decision = limit.params.charge(state, now, cost);
        state = decision.state;
        ours += if decision.admitted() { cost } else { 0 };
        theirs += if exact(now, cost) { cost } else { 0 };
    }
    (ours, theirs)
}

/// Packets of 60 to 1514 bytes at about `load` times the rate, for as long as `bursts` bursts take.
fn overload(limit: &Limit, load: u64, bursts: u64) -> Vec<Arrival> {
    let end_ns = limit.burst_ns() * bursts;
    let (mut now, mut arrivals, mut seed) = (0, Vec::new(), 1_u64);
    while now < end_ns {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let cost = (60 + (seed >> 33) % 1455).min(limit.burst);
        let gap = u128::from(cost) * u128::from(limit.period) / u128::from(limit.amount * load);
        // Below 1 ns the clock stands still now and then.
        let gap = u64::try_from(gap).expect("at most the period") + (seed >> 20 & 1);
        arrivals.push((gap, cost));
        now += gap;
    }
    arrivals
}

#[test]
fn bytes_agree_within_a_thousandth_over_a_long_overload() {
    for (amount, period, burst) in [
        (12_500_000_000, SECOND, 125_000),
        (12_500_000_001, SECOND, 9_001),
        (99_999_999_977, SECOND, 1_000_003),
        (3_333_333_333, SECOND, 65_536),
        (124_999_999, SECOND, 15_140),
        (777_777, SECOND, 3_000),
    ] {
        let limit = Limit::new(Algorithm::TokenBucket, amount, period, burst).unwrap();
        let arrivals = overload(&limit, 2, 50.max(40_000_000 / burst));
        let mut exact = oracle(&limit);
        let (ours, theirs) = totals(&limit, &arrivals, |now, cost| exact.charge(now, cost));
        assert!(
            ours.abs_diff(theirs) <= theirs / 1000,
            "{limit:?}: {ours}, exactly {theirs}"
        );
    }
}

#[test]
fn sliding_windows_agree_within_a_thousandth_over_a_long_overload() {
    for (amount, period) in [
        (1_250_000, 1_000_000),
        (99_999_999, 10_000_000),
        (4096, 1_000_000),
        (131_073, 7_777_777),
    ] {
        let limit = Limit::new(Algorithm::SlidingWindow, amount, period, 0).unwrap();
        let arrivals = overload(&limit, 2, 200.min(100_000_000 / amount).max(4));
        let mut exact = Windows::new(amount, period, true);
        let (ours, theirs) = totals(&limit, &arrivals, |now, cost| exact.charge(now, cost));
        assert!(
            ours.abs_diff(theirs) <= theirs / 1000,
            "{limit:?}: {ours}, exactly {theirs}"
        );
    }
}
