//! The leaky bucket's queue: who waits as told leaves at the rate.

use enforcer_common::limiter::{Algorithm, FRESH, Params};
use proptest::prelude::*;

use crate::arrivals::{Limit, SECOND, bucket, traffic};
use crate::bounds::each_interval;

/// When each admitted cost leaves, and its size.
fn departures(limit: &Limit, start_ns: u64, arrivals: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let (mut state, mut now, mut departures) = (FRESH, start_ns, Vec::new());
    for &(gap, cost) in arrivals {
        now += gap;
        let decision = limit.params.charge(state, now, cost);
        if decision.admitted() {
            departures.push((now + decision.delay_ns, cost));
        }
        state = decision.state;
    }
    departures
}

proptest! {
    #[test]
    fn departures_keep_the_rate((limit, start, arrivals) in traffic(bucket(), 60)) {
        let leaky = Limit::new(Algorithm::LeakyBucket, limit.amount, limit.period, limit.burst).unwrap();
        let departures = departures(&leaky, start, &arrivals);
        prop_assert!(departures.is_sorted_by_key(|d| d.0), "first in, first out");
        let (amount, period) = (u128::from(limit.amount), u128::from(limit.period));
        let largest = departures.iter().map(|d| u128::from(d.1)).max().unwrap_or(0);
        let mut within = true;
        each_interval(&departures, |d, total| {
            within &= total.saturating_sub(largest) * period <= amount * (d + 1);
        });
        prop_assert!(within, "{:?}", departures);
    }

    #[test]
    fn it_admits_what_the_token_bucket_admits((limit, start, arrivals) in traffic(bucket(), 60)) {
        let params = |algorithm| Params::new(algorithm, limit.amount, limit.period, limit.burst).unwrap();
        let (leaky, token) = (params(Algorithm::LeakyBucket), params(Algorithm::TokenBucket));
        let (mut state, mut now) = (FRESH, start);
        for &(gap, cost) in &arrivals {
            now += gap;
            let (queued, taken) = (leaky.charge(state, now, cost), token.charge(state, now, cost));
            prop_assert_eq!((queued.state, queued.retry_after_ns), (taken.state, taken.retry_after_ns));
            prop_assert_eq!(taken.delay_ns, 0);
            prop_assert!(queued.delay_ns <= limit.burst_ns() + limit.burst_ns() / 4096 + 2);
            state = queued.state;
        }
    }
}

#[test]
fn each_waits_for_those_before_it() {
    let params = Params::new(Algorithm::LeakyBucket, 10, SECOND, 3).unwrap();
    let mut state = FRESH;
    for delay_ms in [0, 100, 200] {
        let decision = params.charge(state, SECOND, 1);
        assert!(decision.admitted());
        assert_eq!(decision.delay_ns, delay_ms * 1_000_000);
        state = decision.state;
    }
    let full = params.charge(state, SECOND, 1);
    assert_eq!((full.retry_after_ns, full.delay_ns), (100_000_000, 0));
}
