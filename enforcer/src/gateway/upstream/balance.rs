//! Chooses an endpoint.

use crate::policy::model::Balance;

/// The index of the endpoint for the next request, of `count` endpoints. `turn` is the number of
/// requests before this one: where going round stands. `load` says how many requests an endpoint has
/// under way; `None` means that it must not be used.
pub(in crate::gateway) fn choose(
    balance: Balance,
    count: usize,
    turn: usize,
    load: impl Fn(usize) -> Option<usize>,
) -> Option<usize> {
    let start = turn.checked_rem(count)?;
    let mut usable = (start..count)
        .chain(0..start)
        .filter_map(|index| Some((load(index)?, index)));
    let chosen = match balance {
        Balance::RoundRobin => usable.next(),
        // The first of equals, and where the round begins moves: ties go round.
        Balance::LeastRequest => usable.min_by_key(|&(load, _)| load),
    };
    chosen.map(|(_, index)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choices(balance: Balance, loads: &[Option<usize>]) -> Vec<Option<usize>> {
        (0..4)
            .map(|turn| choose(balance, loads.len(), turn, |index| loads[index]))
            .collect()
    }

    #[test]
    fn each_way_of_balancing() {
        use Balance::{LeastRequest, RoundRobin};
        for (balance, loads, expected) in [
            (
                RoundRobin,
                vec![Some(9), Some(0), Some(0)],
                [0, 1, 2, 0].map(Some),
            ),
            (RoundRobin, vec![Some(0), None, Some(0)], [0, 2, 2, 0].map(Some)),
            (
                LeastRequest,
                vec![Some(1), Some(0), Some(0)],
                [1, 1, 2, 1].map(Some),
            ),
            (LeastRequest, vec![Some(3), Some(2), None], [1; 4].map(Some)),
            (LeastRequest, vec![Some(0), Some(0)], [0, 1, 0, 1].map(Some)),
            (LeastRequest, vec![None, None], [None; 4]),
            (RoundRobin, vec![], [None; 4]),
        ] {
            assert_eq!(choices(balance, &loads), expected, "{balance:?} {loads:?}");
        }
    }
}
