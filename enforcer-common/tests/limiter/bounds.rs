//! No algorithm ever admits more than its bound, over any interval of any sequence of arrivals.

use enforcer_common::limiter::{Algorithm, FRESH, Params};
use proptest::prelude::*;

use crate::arrivals::{DAY, Limit, SECOND, bucket, fixed_window, sliding_window, traffic};

type Admitted = Vec<(u64, u64)>;

fn admitted(limit: &Limit, start_ns: u64, arrivals: &[(u64, u64)]) -> Admitted {
    let (mut state, mut now, mut admitted) = (FRESH, start_ns, Vec::new());
    for &(gap, cost) in arrivals {
        now += gap;
        let decision = limit.params.charge(state, now, cost);
        if decision.admitted() {
            admitted.push((now, cost));
        }
        state = decision.state;
    }
    admitted
}

/// Calls `check` with the length of each interval from one admission to another, and what it admitted.
pub(crate) fn each_interval(admitted: &[(u64, u64)], mut check: impl FnMut(u128, u128)) {
    for (first, &(begin, _)) in admitted.iter().enumerate() {
        let mut total = 0;
        for &(end, cost) in &admitted[first..] {
            total += u128::from(cost);
            check(u128::from(end - begin), total);
        }
    }
}

pub(crate) fn within_bucket_bound(limit: &Limit, d: u128, total: u128) -> bool {
    let (amount, period) = (u128::from(limit.amount), u128::from(limit.period));
    let excess = total.saturating_sub(u128::from(limit.burst));
    if limit.rounds_charges() {
        // The state's resolution: less than 2^-8 ns over the bound.
        excess == 0 || (excess * period) << 8 < amount * ((d << 8) + 1)
    } else {
        excess * period <= amount * d
    }
}

pub(crate) fn within_fixed_bound(limit: &Limit, d: u128, total: u128) -> bool {
    total <= u128::from(limit.amount) * (d / u128::from(limit.period) + 2)
}

pub(crate) fn within_sliding_bound(limit: &Limit, d: u128, total: u128) -> bool {
    let (amount, period) = (u128::from(limit.amount), u128::from(limit.period));
    total * period <= amount * (period + d)
}

fn most_in_one_window(limit: &Limit, admitted: &[(u64, u64)]) -> u64 {
    let mut windows = std::collections::BTreeMap::<u64, u64>::new();
    for &(at, cost) in admitted {
        *windows.entry(at / limit.period).or_default() += cost;
    }
    windows.into_values().max().unwrap_or(0)
}

proptest! {
    #[test]
    fn buckets_keep_burst_and_rate((limit, start, arrivals) in traffic(bucket(), 60)) {
        let admitted = admitted(&limit, start, &arrivals);
        let mut within = true;
        each_interval(&admitted, |d, total| within &= within_bucket_bound(&limit, d, total));
        prop_assert!(within, "{:?}", admitted);
    }

    #[test]
    fn fixed_windows_keep_their_amount((limit, start, arrivals) in traffic(fixed_window(), 60)) {
        let admitted = admitted(&limit, start, &arrivals);
        prop_assert!(most_in_one_window(&limit, &admitted) <= limit.amount);
        let mut within = true;
        each_interval(&admitted, |d, total| within &= within_fixed_bound(&limit, d, total));
        prop_assert!(within, "{:?}", admitted);
    }

    #[test]
    fn sliding_windows_keep_amount_and_rate((limit, start, arrivals) in traffic(sliding_window(), 60)) {
        let admitted = admitted(&limit, start, &arrivals);
        prop_assert!(most_in_one_window(&limit, &admitted) <= limit.amount);
        let mut within = true;
        each_interval(&admitted, |d, total| within &= within_sliding_bound(&limit, d, total));
        prop_assert!(within, "{:?}", admitted);
    }

    #[test]
    fn a_whole_burst_is_admitted_at_once_and_no_more(
        (limit, start, _) in traffic(crate::arrivals::any_limit(), 1),
    ) {
        let full = limit.params.charge(FRESH, start, limit.burst);
        prop_assert!(full.admitted());
        prop_assert!(!limit.params.charge(full.state, start, 1).admitted());
        prop_assert_eq!(limit.params.remaining(FRESH, start), limit.burst);
        prop_assert_eq!(limit.params.remaining(full.state, start), 0);
    }
}

fn count_at_once(params: &Params, state: &mut u64, now: u64) -> u64 {
    let mut count = 0;
    loop {
        let decision = params.charge(*state, now, 1);
        if !decision.admitted() {
            return count;
        }
        *state = decision.state;
        count += 1;
    }
}

#[test]
fn a_burst_one_by_one_is_exactly_the_burst() {
    for (algorithm, amount, period, burst) in [
        (Algorithm::TokenBucket, 20_000, SECOND, 40_000),
        (Algorithm::TokenBucket, 7, 3 * SECOND, 1000),
        (Algorithm::LeakyBucket, 3, SECOND, 7),
        // 1 Gbit/s: 8 ns a byte.
        (Algorithm::LeakyBucket, 125_000_000, SECOND, 9000),
        (Algorithm::FixedWindow, 5000, SECOND, 0),
        (Algorithm::SlidingWindow, 5000, SECOND, 0),
    ] {
        let params = Params::new(algorithm, amount, period, burst).unwrap();
        let mut state = FRESH;
        assert_eq!(
            count_at_once(&params, &mut state, 77 * SECOND),
            params.burst(),
            "{algorithm:?}"
        );
    }
}

#[test]
fn across_a_border_a_fixed_window_doubles_and_a_sliding_one_does_not() {
    let border = 50 * SECOND;
    for (algorithm, after) in [(Algorithm::FixedWindow, 100), (Algorithm::SlidingWindow, 0)] {
        let params = Params::new(algorithm, 100, SECOND, 0).unwrap();
        let mut state = FRESH;
        assert_eq!(count_at_once(&params, &mut state, border - 1), 100);
        assert_eq!(count_at_once(&params, &mut state, border), after, "{algorithm:?}");
    }
}

#[test]
fn the_sliding_bound_is_attained() {
    let limit = Limit::new(Algorithm::SlidingWindow, 1000, SECOND, 0).unwrap();
    let (mut state, mut total) = (FRESH, 0);
    total += count_at_once(&limit.params, &mut state, 50 * SECOND - 1);
    total += count_at_once(&limit.params, &mut state, 51 * SECOND - 1);
    assert_eq!(total, 1999);
    assert!(within_sliding_bound(
        &limit,
        u128::from(SECOND),
        u128::from(total)
    ));
}

#[test]
fn the_largest_sliding_window_still_weighs_all_of_the_previous_one() {
    let amount = 4095 << 24;
    let params = Params::new(Algorithm::SlidingWindow, amount, DAY, 0).unwrap();
    let full = params.charge(FRESH, 3 * DAY - 1, amount);
    assert!(full.admitted());
    assert_eq!(params.remaining(full.state, 3 * DAY), 0);
    assert_eq!(params.remaining(full.state, 3 * DAY + DAY / 2), amount / 2);
}
