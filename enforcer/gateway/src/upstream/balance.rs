//! Chooses an endpoint.

use std::cell::{Cell, RefCell};

use enforcer_model::Balance;

/// An endpoint that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// In the service's endpoints.
    pub(super) index: usize,
    /// Its share, in proportion to the others'. Not 0.
    pub(super) weight: u32,
}

/// Where going round stands.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    turn: Cell<usize>,
    /// What each endpoint has coming (smooth weighted round robin, as nginx does it).
    credit: RefCell<Vec<i64>>,
}

/// The one of `members` for the next request. `load` says how many requests one has under way; `None`
/// means that it must not be used. `random` gives numbers below its argument.
pub(super) fn choose(
    balance: &Balance,
    members: &[Member],
    rounds: &Rounds,
    load: impl Fn(usize) -> Option<usize>,
    random: impl FnMut(u64) -> u64,
) -> Option<usize> {
    match balance {
        Balance::RoundRobin => rounds.round_robin(members, load),
        Balance::PowerOfTwo => of_two(members, &load, random).or_else(|| rounds.least(members, load)),
        // A hash that leads nowhere leaves the choice.
        Balance::LeastRequest | Balance::RingHash(_) | Balance::Maglev(_) => rounds.least(members, load),
    }
}

impl Rounds {
    /// The least busy for its weight; the first of equals, and where the round begins moves.
    fn least(&self, members: &[Member], load: impl Fn(usize) -> Option<usize>) -> Option<usize> {
        let turn = self.turn.replace(self.turn.get().wrapping_add(1));
        let start = turn.checked_rem(members.len())?;
        let (front, back) = members.split_at(start);
        let usable = back
            .iter()
            .chain(front)
            .filter_map(|member| Some((busyness(member, load(member.index)?), member.index)));
        let mut least: Option<((u64, u64), usize)> = None;
        for (busy, index) in usable {
            if least.is_none_or(|(other, _)| is_less(busy, other)) {
                least = Some((busy, index));
            }
        }
        least.map(|(_, index)| index)
    }

    /// Each gets its weight in credit; the one with the most is chosen, and pays what all have got.
    fn round_robin(&self, members: &[Member], load: impl Fn(usize) -> Option<usize>) -> Option<usize> {
        let mut credit = self.credit.borrow_mut();
        let mut given = 0;
        let mut chosen: Option<usize> = None;
        for member in members.iter().filter(|member| load(member.index).is_some()) {
            if credit.len() <= member.index {
                credit.resize(member.index + 1, 0);
            }
            credit[member.index] += i64::from(member.weight);
            given += i64::from(member.weight);
            if chosen.is_none_or(|chosen| credit[member.index] > credit[chosen]) {
                chosen = Some(member.index);
            }
        }
        credit[chosen?] -= given;
        chosen
    }
}

/// The less busy of two different ones, drawn by weight. `None` if neither can be used.
fn of_two(
    members: &[Member],
    load: &impl Fn(usize) -> Option<usize>,
    mut random: impl FnMut(u64) -> u64,
) -> Option<usize> {
    let total: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
    let at = |point: u64| {
        let mut left = point;
        members.iter().position(|member| {
            let weight = u64::from(member.weight);
            let here = left < weight;
            left = left.saturating_sub(weight);
            here
        })
    };
    if total == 0 {
        return None;
    }
    let first = at(random(total))?;
    let before: u64 = members[..first]
        .iter()
        .map(|member| u64::from(member.weight))
        .sum();
    let own = u64::from(members[first].weight);
    let second = (total > own).then(|| {
        let point = random(total - own);
        at(if point < before { point } else { point + own })
    });
    let busy = |position: usize| {
        let member = &members[position];
        Some((busyness(member, load(member.index)?), member.index))
    };
    match (busy(first), second.flatten().and_then(busy)) {
        (Some((busy, _)), Some((other, index))) if is_less(other, busy) => Some(index),
        (Some((_, index)), _) | (None, Some((_, index))) => Some(index),
        (None, None) => None,
    }
}

/// Requests with this one, for the weight.
fn busyness(member: &Member, load: usize) -> (u64, u64) {
    (load as u64 + 1, u64::from(member.weight))
}

/// Whether one fraction is less than another.
fn is_less(one: (u64, u64), other: (u64, u64)) -> bool {
    u128::from(one.0) * u128::from(other.1) < u128::from(other.0) * u128::from(one.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(weights: &[u32]) -> Vec<Member> {
        let member = |(index, &weight)| Member { index, weight };
        weights.iter().enumerate().map(member).collect()
    }

    fn choices(balance: &Balance, loads: &[Option<usize>]) -> Vec<Option<usize>> {
        let (members, rounds) = (members(&vec![1; loads.len()]), Rounds::default());
        (0..4)
            .map(|_| choose(balance, &members, &rounds, |index| loads[index], |_| 0))
            .collect()
    }

    #[test]
    fn each_way_of_balancing() {
        use Balance::{LeastRequest, PowerOfTwo, RoundRobin};
        for (balance, loads, expected) in [
            (
                RoundRobin,
                vec![Some(9), Some(0), Some(0)],
                [0, 1, 2, 0].map(Some),
            ),
            (RoundRobin, vec![Some(0), None, Some(0)], [0, 2, 0, 2].map(Some)),
            (
                LeastRequest,
                vec![Some(1), Some(0), Some(0)],
                [1, 1, 2, 1].map(Some),
            ),
            (LeastRequest, vec![Some(3), Some(2), None], [1; 4].map(Some)),
            (LeastRequest, vec![Some(0), Some(0)], [0, 1, 0, 1].map(Some)),
            (LeastRequest, vec![None, None], [None; 4]),
            (RoundRobin, vec![], [None; 4]),
            (RoundRobin, vec![None], [None; 4]),
            (PowerOfTwo, vec![Some(2), Some(1), Some(0)], [1; 4].map(Some)),
            (PowerOfTwo, vec![Some(2), None, Some(0)], [0; 4].map(Some)),
            (PowerOfTwo, vec![None, None, Some(9)], [2; 4].map(Some)),
            (PowerOfTwo, vec![Some(5)], [0; 4].map(Some)),
            (PowerOfTwo, vec![], [None; 4]),
        ] {
            assert_eq!(choices(&balance, &loads), expected, "{balance:?} {loads:?}");
        }
    }

    /// How many of `count` choices each gets if every request stays under way.
    fn shares(balance: &Balance, weights: &[u32], count: usize) -> Vec<usize> {
        let (members, rounds) = (members(weights), Rounds::default());
        let mut random = fastrand::Rng::with_seed(7);
        let mut loads = vec![0; weights.len()];
        for _ in 0..count {
            let chosen = choose(
                balance,
                &members,
                &rounds,
                |index| Some(loads[index]),
                |below| random.u64(0..below),
            );
            loads[chosen.unwrap()] += 1;
        }
        loads
    }

    #[test]
    fn shares_follow_weights() {
        for balance in [Balance::LeastRequest, Balance::RoundRobin, Balance::PowerOfTwo] {
            for (got, expected) in shares(&balance, &[1000, 3000, 4000], 8000)
                .iter()
                .zip([1000, 3000, 4000])
            {
                assert!(got.abs_diff(expected) <= 100, "{balance:?} {got} {expected}");
            }
        }
    }

    #[test]
    fn two_draws_keep_loads_together() {
        let loads = shares(&Balance::PowerOfTwo, &[1; 64], 64 * 100);
        let (least, most) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
        // One draw alone spreads by about sixty.
        assert!(most - least <= 12, "{least} to {most}");
    }

    #[test]
    fn weights_are_interleaved() {
        let (members, rounds) = (members(&[5, 1, 1]), Rounds::default());
        let order: Vec<_> = (0..7)
            .filter_map(|_| choose(&Balance::RoundRobin, &members, &rounds, |_| Some(0), |_| 0))
            .collect();
        assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
    }
}
