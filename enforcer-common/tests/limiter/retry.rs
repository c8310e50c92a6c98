//! What a refusal and a state say about the future comes true.

use enforcer_common::limiter::{FRESH, NEVER, Params};
use proptest::prelude::*;

use crate::arrivals::{any_limit, arrivals, cost, run};

proptest! {
    #[test]
    fn a_refused_cost_is_admitted_when_told_and_not_before(
        (limit, start, arrivals, cost) in any_limit().prop_flat_map(|limit| {
            (Just(limit), 0..1_u64 << 60, arrivals(limit, 20), cost(limit))
        }),
        part in 0.0..1.0,
    ) {
        let (state, now) = run(&limit.params, start, &arrivals);
        let decision = limit.params.charge(state, now, cost);
        if !decision.admitted() {
            prop_assert_eq!(decision.state, state, "a refusal changes nothing");
            let wait = decision.retry_after_ns;
            prop_assert!(limit.params.charge(state, now + wait, cost).admitted());
            prop_assert!(!limit.params.charge(state, now + wait - 1, cost).admitted());
            let between = ((wait as f64) * part) as u64;
            if between < wait {
                let again = limit.params.charge(state, now + between, cost);
                prop_assert_eq!(again.retry_after_ns, wait - between);
            }
        }
    }

    #[test]
    fn what_remains_is_admitted_and_one_more_is_not(
        (limit, start, arrivals) in crate::arrivals::traffic(any_limit(), 20),
    ) {
        let (state, now) = run(&limit.params, start, &arrivals);
        let remaining = limit.params.remaining(state, now);
        prop_assert!(limit.params.charge(state, now, remaining).admitted());
        prop_assert!(!limit.params.charge(state, now, remaining + 1).admitted());
    }

    #[test]
    fn all_is_there_again_at_the_reset_and_not_before(
        (limit, start, arrivals) in crate::arrivals::traffic(any_limit(), 20),
    ) {
        let (state, now) = run(&limit.params, start, &arrivals);
        let reset = limit.params.reset_after_ns(state, now);
        prop_assert_eq!(limit.params.remaining(state, now + reset), limit.burst);
        prop_assert_eq!(limit.params.settled(state, now + reset), FRESH);
        if reset > 0 {
            prop_assert_eq!(limit.params.settled(state, now + reset - 1), state);
        }
    }

    #[test]
    fn more_than_the_limit_is_never_admitted_and_nothing_always(
        (limit, start, arrivals) in crate::arrivals::traffic(any_limit(), 20),
        more in 1_u64..,
    ) {
        let (state, now) = run(&limit.params, start, &arrivals);
        let refused = limit.params.charge(state, now, limit.burst.saturating_add(more));
        prop_assert_eq!((refused.state, refused.retry_after_ns), (state, NEVER));
        let nothing = limit.params.charge(state, now, 0);
        prop_assert_eq!((nothing.state, nothing.retry_after_ns, nothing.delay_ns), (state, 0, 0));
    }

    #[test]
    fn no_state_and_no_time_is_out_of_the_question(
        limit in any_limit(), state: u64, other: u64, now: u64, cost: u64,
    ) {
        // States from elsewhere mean nothing, but every question about them has an answer.
        let decision = limit.params.charge(state, now, cost);
        prop_assert_eq!(decision.admitted(), limit.params.admit(state, now, cost).is_some());
        prop_assert!(!decision.admitted() || cost <= limit.burst);
        prop_assert!(decision.admitted() || decision.state == state);
        prop_assert!(limit.params.remaining(state, now) <= limit.burst);
        prop_assert!(limit.params.reset_after_ns(state, now) < NEVER);
        let more = limit.params.more_used(state, other);
        prop_assert_eq!(limit.params.more_used(more, more), more);
        prop_assert!(!limit.params.is_more_used(state, state));
    }
}

#[test]
fn an_hour_is_an_hour() {
    use enforcer_common::limiter::Algorithm;
    let hour = 3600 * crate::arrivals::SECOND;
    let params = Params::new(Algorithm::TokenBucket, 1, hour, 1).unwrap();
    let first = params.charge(FRESH, 5, 1);
    assert!(first.admitted());
    assert_eq!(params.charge(first.state, 5, 1).retry_after_ns, hour);
    assert_eq!(params.charge(first.state, hour, 1).retry_after_ns, 5);
    assert!(params.charge(first.state, hour + 5, 1).admitted());
}
