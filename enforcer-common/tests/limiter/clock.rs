//! Clocks that go back, differ between processors, stand at their end, or come round again.

use enforcer_common::limiter::{Algorithm, FRESH, Params};
use proptest::prelude::*;

use crate::arrivals::{Arrival, DAY, Limit, SECOND, any_limit, bucket, traffic};
use crate::bounds::{within_bucket_bound, within_fixed_bound, within_sliding_bound};

const BUCKET_TURN_NS: u64 = 1 << 56;

/// The decisions on `arrivals` from `start_ns` on, on a clock that may come round.
fn decisions(params: &Params, start_ns: u64, arrivals: &[Arrival]) -> Vec<(u64, u64)> {
    let (mut state, mut now) = (FRESH, start_ns);
    let mut decisions = Vec::new();
    for &(gap, cost) in arrivals {
        now = now.wrapping_add(gap);
        let decision = params.charge(state, now, cost);
        decisions.push((decision.retry_after_ns, decision.delay_ns));
        state = decision.state;
    }
    decisions
}

/// Whether any of the arrivals leaves `state` behind.
fn stores(params: &Params, start_ns: u64, arrivals: &[Arrival], state: u64) -> bool {
    let (mut current, mut now) = (FRESH, start_ns);
    arrivals.iter().any(|&(gap, cost)| {
        now = now.wrapping_add(gap);
        current = params.charge(current, now, cost).state;
        current == state
    })
}

fn within_bound(limit: &Limit, d: u128, total: u128) -> bool {
    match limit.algorithm {
        Algorithm::TokenBucket | Algorithm::LeakyBucket => within_bucket_bound(limit, d, total),
        Algorithm::FixedWindow => within_fixed_bound(limit, d, total),
        Algorithm::SlidingWindow => within_sliding_bound(limit, d, total),
    }
}

proptest! {
    #[test]
    fn a_jittering_clock_refills_nothing(
        (limit, start, arrivals) in traffic(any_limit(), 60),
        jitters in prop::collection::vec(0..SECOND, 60),
    ) {
        let (mut state, mut now) = (FRESH, start + SECOND);
        let (mut first, mut last, mut total) = (u64::MAX, 0, 0_u128);
        for (&(gap, cost), jitter) in arrivals.iter().zip(jitters) {
            now += gap;
            let read = now - jitter;
            (first, last) = (first.min(read), last.max(read));
            let decision = limit.params.charge(state, read, cost);
            total += if decision.admitted() { u128::from(cost) } else { 0 };
            state = decision.state;
        }
        prop_assert!(within_bound(&limit, u128::from(last - first), total), "{}", total);
    }

    #[test]
    fn a_full_limiter_stays_full_when_the_clock_goes_back_by_up_to_a_second(
        limit in any_limit(), start in SECOND..1_u64 << 60, back in 0..=SECOND,
    ) {
        let full = limit.params.charge(FRESH, start, limit.burst);
        let refused = limit.params.charge(full.state, start - back, 1);
        prop_assert!(!refused.admitted());
        // And it says how long that lasts.
        let then = start - back + refused.retry_after_ns;
        prop_assert!(limit.params.charge(full.state, then, 1).admitted());
        prop_assert!(!limit.params.charge(full.state, then - 1, 1).admitted());
    }

    #[test]
    fn a_full_bucket_stays_full_when_the_clock_goes_back_by_up_to_a_day(
        limit in bucket(), start in DAY..1_u64 << 60, back in 0..=DAY,
    ) {
        let full = limit.params.charge(FRESH, start, limit.burst);
        prop_assert!(!limit.params.charge(full.state, start - back, 1).admitted());
    }

    #[test]
    fn buckets_decide_the_same_wherever_the_clock_stands(
        (limit, start, arrivals) in traffic(bucket(), 40),
        turns: u8,
        before in 0..10 * SECOND,
    ) {
        // The second run passes the end of the state's clock, or of the whole clock, on its way.
        let border = (u64::from(turns) + 1).wrapping_mul(BUCKET_TURN_NS);
        let across = border.wrapping_sub(before % (limit.burst_ns() * 2));
        // A time that would be stored as FRESH is stored as 1, and so is stricter by 2^-8 ns.
        prop_assume!(!stores(&limit.params, across, &arrivals, 1));
        prop_assert_eq!(
            decisions(&limit.params, start, &arrivals),
            decisions(&limit.params, across, &arrivals)
        );
    }

    #[test]
    fn windows_decide_the_same_wherever_their_numbers_stand(
        (limit, _, arrivals) in traffic(
            prop_oneof![crate::arrivals::fixed_window(), crate::arrivals::sliding_window()], 40),
        offset in 0..DAY,
        windows_before in 0_u64..4,
    ) {
        let turn = if limit.algorithm == Algorithm::FixedWindow { 1_u64 << 24 } else { 1 << 16 };
        // A day's windows come round after more than the clock has.
        let Some(border_ns) = turn.checked_mul(limit.period).filter(|ns| *ns < 1 << 63) else {
            return Ok(());
        };
        let offset = offset % limit.period;
        let across = border_ns - windows_before * limit.period + offset;
        prop_assert_eq!(
            decisions(&limit.params, 100 * limit.period + offset, &arrivals),
            decisions(&limit.params, across, &arrivals)
        );
    }
}

#[test]
fn a_bucket_that_would_be_stored_as_fresh_is_not() {
    // One unit lasts a second, and the clock stands a second before the end of its turn.
    let params = Params::new(Algorithm::TokenBucket, 1, SECOND, 1).unwrap();
    let now = BUCKET_TURN_NS - SECOND;
    let first = params.charge(FRESH, now, 1);
    assert!(first.admitted());
    assert_ne!(first.state, FRESH);
    assert!(!params.charge(first.state, now, 1).admitted());
    assert!(params.charge(first.state, now + SECOND + 1, 1).admitted());
}

#[test]
fn a_bucket_is_full_after_any_silence_but_a_whole_turn() {
    let params = Params::new(Algorithm::TokenBucket, 1, SECOND, 5).unwrap();
    let start = 7 * DAY;
    let used = params.charge(FRESH, start, 5);
    for silence in [
        5 * SECOND,
        DAY,
        400 * DAY,
        416 * DAY,
        417 * DAY,
        800 * DAY,
        832 * DAY,
    ] {
        assert!(
            params.charge(used.state, start + silence, 5).admitted(),
            "{} days",
            silence / DAY
        );
    }
    // Within a burst and a day of the turn it looks as if in use: strict, not generous.
    assert!(!params.charge(used.state, start + BUCKET_TURN_NS, 5).admitted());
    assert!(
        params
            .charge(used.state, start + BUCKET_TURN_NS + 5 * SECOND, 5)
            .admitted()
    );
}

#[test]
fn a_bucket_believes_a_state_that_slower_parameters_wrote() {
    let params = Params::new(Algorithm::TokenBucket, 20_000, SECOND, 40_000).unwrap();
    let lowered = params.at_rate(2000, SECOND).unwrap();
    let start = DAY;
    let full = lowered.charge(FRESH, start, 40_000);
    assert_eq!(
        params.charge(full.state, start, 1).retry_after_ns,
        18 * SECOND + 50_000
    );
}

#[test]
fn a_window_s_use_counts_again_only_when_its_number_does() {
    for (algorithm, turn, counts_windows) in [
        (Algorithm::FixedWindow, 1_u64 << 24, 1),
        (Algorithm::SlidingWindow, 1 << 16, 2),
    ] {
        let params = Params::new(algorithm, 10, SECOND, 0).unwrap();
        let start = 1000 * SECOND;
        let used = params.charge(FRESH, start, 10);
        let admitted = |windows: u64| params.charge(used.state, start + windows * SECOND, 10).admitted();
        for windows in [
            counts_windows,
            3,
            100,
            turn / 2,
            turn / 2 + 1,
            turn - 3,
            turn + counts_windows,
        ] {
            assert!(admitted(windows), "{algorithm:?} after {windows} windows");
        }
        // A second and a window before the number comes round, the state looks a little ahead.
        for windows in [turn - 2, turn - 1, turn] {
            assert!(!admitted(windows), "{algorithm:?} after {windows} windows");
        }
    }
}

#[test]
fn a_clock_that_goes_back_by_more_starts_anew() {
    for (algorithm, back) in [
        (Algorithm::TokenBucket, DAY + SECOND),
        (Algorithm::FixedWindow, 3 * SECOND),
        (Algorithm::SlidingWindow, 3 * SECOND),
    ] {
        let params = Params::new(algorithm, 10, SECOND, 10).unwrap();
        let start = 2 * DAY + SECOND / 2;
        let used = params.charge(FRESH, start, 10);
        assert!(
            params.charge(used.state, start - back, 10).admitted(),
            "{algorithm:?}"
        );
    }
}

#[test]
fn the_end_of_the_clock_is_a_time_like_any_other() {
    for algorithm in [Algorithm::FixedWindow, Algorithm::SlidingWindow] {
        let params = Params::new(algorithm, 10, SECOND, 0).unwrap();
        let full = params.charge(FRESH, u64::MAX, 10);
        assert!(full.admitted());
        let refused = params.charge(full.state, u64::MAX, 1);
        assert!(!refused.admitted() && refused.retry_after_ns <= 2 * SECOND);
        assert!(
            params.charge(full.state, 0, 10).admitted(),
            "{algorithm:?} begins anew"
        );
    }
}
