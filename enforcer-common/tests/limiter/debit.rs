//! Costs that are known only once they are spent.

use enforcer_common::limiter::{Algorithm, FRESH, Params};
use proptest::prelude::*;

use crate::arrivals::{SECOND, any_limit, traffic};

const HOUR: u64 = 3600 * SECOND;

proptest! {
    /// Whatever would be admitted is debited as it would be charged.
    #[test]
    fn a_debit_within_the_limit_is_a_charge((limit, start, arrivals) in traffic(any_limit(), 60)) {
        let (mut state, mut now) = (FRESH, start);
        for &(gap, cost) in &arrivals {
            now += gap;
            let charged = limit.params.charge(state, now, cost);
            if charged.admitted() {
                prop_assert_eq!(limit.params.debit(state, now, cost), charged.state);
            }
            state = charged.state;
        }
    }

    /// Nobody is better off for having been debited more.
    #[test]
    fn a_debit_never_refills((limit, start, arrivals) in traffic(any_limit(), 60), more in any::<u64>()) {
        let (mut state, mut now) = (FRESH, start);
        for &(gap, cost) in &arrivals {
            now += gap;
            let debited = limit.params.debit(state, now, cost);
            let further = limit.params.debit(debited, now, more);
            let left = [state, debited, further].map(|state| limit.params.remaining(state, now));
            prop_assert!(left[0] >= left[1] && left[1] >= left[2], "{:?}", left);
            state = debited;
        }
    }
}

#[test]
fn a_bucket_makes_up_for_what_it_owes() {
    for algorithm in [Algorithm::TokenBucket, Algorithm::LeakyBucket] {
        let params = Params::new(algorithm, 1000, SECOND, 1000).unwrap();
        let state = params.debit(FRESH, HOUR, 11_000);
        assert_eq!(params.remaining(state, HOUR), 0);
        let refused = params.charge(state, HOUR, 1);
        assert_eq!(refused.retry_after_ns, 10 * SECOND + SECOND / 1000);
        assert!(params.charge(state, HOUR + refused.retry_after_ns, 1).admitted());
    }
}

#[test]
fn a_debt_is_at_most_half_a_day_and_survives_a_clock_that_goes_back() {
    let params = Params::new(Algorithm::TokenBucket, 1, SECOND, 1).unwrap();
    let now = 1000 * HOUR;
    let mut state = FRESH;
    for _ in 0..3 {
        state = params.debit(state, now, u64::MAX);
        let wait = params.charge(state, now, 1).retry_after_ns;
        assert_eq!(wait, 12 * HOUR + SECOND);
        assert!(!params.charge(state, now - 11 * HOUR, 1).admitted());
    }
}

#[test]
fn a_window_forgets_what_it_owes() {
    for (algorithm, windows) in [(Algorithm::FixedWindow, 1), (Algorithm::SlidingWindow, 2)] {
        let params = Params::new(algorithm, 1000, SECOND, 1000).unwrap();
        let state = params.debit(FRESH, HOUR, u64::MAX);
        assert!(
            !params.charge(state, HOUR + SECOND - 1, 1).admitted(),
            "{algorithm:?}"
        );
        assert!(
            params.charge(state, HOUR + windows * SECOND, 1).admitted(),
            "{algorithm:?}"
        );
    }
}
