//! The order of states, and the sketch that lives on it: a cell never knows less than any of its keys.

use enforcer_common::limiter::FRESH;
use proptest::prelude::*;

use crate::arrivals::{Limit, any_limit, arrivals, bucket, cost, fixed_window, run, sliding_window};

/// Two states of one limiter that was used twice over about the same time, and a time and a cost to ask
/// about.
type Two = (Limit, u64, u64, u64, u64);

fn two_states(limits: impl Strategy<Value = Limit>) -> impl Strategy<Value = Two> {
    limits
        .prop_flat_map(|limit| {
            let times = (0..1_u64 << 60, 0..=limit.burst_ns() * 2);
            (
                Just(limit),
                arrivals(limit, 10),
                arrivals(limit, 10),
                cost(limit),
                times,
            )
        })
        .prop_map(|(limit, one, other, cost, (start, later))| {
            let (a, at_a) = run(&limit.params, start, &one);
            let (b, at_b) = run(&limit.params, start, &other);
            let now = at_a.max(at_b) + later;
            let settled = |state| limit.params.settled(state, now);
            (limit, settled(a), settled(b), now, cost)
        })
}

proptest! {
    #[test]
    fn the_more_used_admits_what_both_do_and_the_less_used_what_one_does(
        (limit, a, b, now, cost) in two_states(any_limit()),
    ) {
        let admits = |state| limit.params.charge(state, now, cost).admitted();
        let more = limit.params.more_used(a, b);
        let less = limit.params.less_used(a, b);
        prop_assert!(!admits(more) || (admits(a) && admits(b)));
        prop_assert!(admits(less) || (!admits(a) && !admits(b)));
        let remaining = |state| limit.params.remaining(state, now);
        prop_assert!(remaining(more) <= remaining(a).min(remaining(b)));
        prop_assert!(remaining(less) >= remaining(a).max(remaining(b)));
    }

    #[test]
    fn one_of_two_buckets_or_fixed_windows_is_more_used(
        (limit, a, b, _, _) in two_states(prop_oneof![bucket(), fixed_window()]),
    ) {
        let more = limit.params.more_used(a, b);
        prop_assert!(more == a || more == b);
        prop_assert_eq!(limit.params.less_used(a, b), if more == a { b } else { a });
        prop_assert_eq!(limit.params.is_more_used(a, b) ^ limit.params.is_more_used(b, a), a != b);
    }

    #[test]
    fn more_and_less_used_do_not_depend_on_the_order((limit, a, b, _, _) in two_states(any_limit())) {
        prop_assert_eq!(limit.params.more_used(a, b), limit.params.more_used(b, a));
        prop_assert_eq!(limit.params.less_used(a, b), limit.params.less_used(b, a));
        prop_assert_eq!(limit.params.more_used(a, FRESH), a);
        prop_assert_eq!(limit.params.less_used(a, FRESH), FRESH);
        prop_assert!(!limit.params.is_more_used(FRESH, a));
    }

    #[test]
    fn a_charge_makes_more_used((limit, state, _, now, cost) in two_states(any_limit())) {
        let charged = limit.params.charge(state, now, cost);
        if charged.admitted() {
            prop_assert!(limit.params.is_more_used(charged.state, state));
            prop_assert!(limit.params.remaining(charged.state, now) < limit.params.remaining(state, now));
        }
    }

    #[test]
    fn a_settled_state_decides_the_same(
        (limit, start, arrivals, cost) in any_limit().prop_flat_map(|limit| {
            (Just(limit), 0..1_u64 << 60, arrivals(limit, 10), cost(limit))
        }),
        later in 0..crate::arrivals::DAY * 500,
    ) {
        let (state, at) = run(&limit.params, start, &arrivals);
        for now in [at, at + later % limit.burst_ns(), at + later] {
            let settled = limit.params.settled(state, now);
            prop_assert!(settled == state || settled == FRESH);
            let decision = limit.params.charge(settled, now, cost);
            let unsettled = limit.params.charge(state, now, cost);
            prop_assert_eq!(decision.retry_after_ns, unsettled.retry_after_ns);
        }
    }
}

const ROWS: usize = 3;
const COLUMNS: usize = 4;
const KEYS: usize = 9;

/// A count-min sketch with conservative update: charges the least used, and raises each cell to the outcome.
fn charge_sketch(
    limit: &Limit,
    cells: &mut [[u64; COLUMNS]; ROWS],
    columns: [usize; ROWS],
    now: u64,
    cost: u64,
) -> bool {
    let mut seen = [0; ROWS];
    for row in 0..ROWS {
        seen[row] = limit.params.settled(cells[row][columns[row]], now);
    }
    let least = seen
        .into_iter()
        .reduce(|a, b| limit.params.less_used(a, b))
        .expect("a sketch has rows");
    let decision = limit.params.charge(least, now, cost);
    for row in 0..ROWS {
        if decision.admitted() {
            cells[row][columns[row]] = limit.params.more_used(seen[row], decision.state);
        }
    }
    decision.admitted()
}

fn sketch_never_admits_more_than_a_limiter_per_key(
    limit: &Limit,
    start: u64,
    arrivals: &[(u64, u64)],
    keys: &[usize],
) -> Result<(), TestCaseError> {
    let mut cells = [[FRESH; COLUMNS]; ROWS];
    let mut own = [FRESH; KEYS];
    let mut now = start;
    for (&(gap, cost), &key) in arrivals.iter().zip(keys) {
        now += gap / 4;
        let columns = [key % COLUMNS, (key / 2) % COLUMNS, (key * 7 / 3) % COLUMNS];
        if charge_sketch(limit, &mut cells, columns, now, cost) {
            let decision = limit.params.charge(own[key], now, cost);
            prop_assert!(decision.admitted(), "key {} got more than its own limiter", key);
            own[key] = decision.state;
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_sketch_of_limiters_never_admits_more_than_a_limiter_per_key(
        (limit, start, arrivals) in crate::arrivals::traffic(prop_oneof![any_limit(), sliding_window()], 80),
        keys in prop::collection::vec(0..KEYS, 80),
    ) {
        sketch_never_admits_more_than_a_limiter_per_key(&limit, start, &arrivals, &keys)?;
    }
}
