//! Consistent hashing: which endpoint a key belongs to.
//!
//! Tables are made of all endpoints of a service, once for all workers. An endpoint that cannot be used
//! is stepped over by hashing the key again, so that only the keys of that endpoint move, and spread
//! over all others. The hash is the same on all nodes and after each start: gateways side by side must
//! agree. Who can choose a key can choose an endpoint; its bound on connections then sends the rest on.

use aws_lc_rs::digest::{SHA256, digest};

use enforcer_model::{Balance, Endpoint};

/// Points of one endpoint of average weight on the ring.
const POINTS: usize = 160;
/// No ring has more, whatever there are endpoints.
const MAX_POINTS: usize = 1 << 17;
/// Places of a Maglev table: a prime, and more than a hundred for each of 512 endpoints (Eisenbud and
/// others, 2016, section 5.3).
const PLACES: u64 = 65_537;
/// So often a key is hashed again before all endpoints are compared.
const TRIES: u64 = 16;

/// Where keys lead.
#[derive(Debug)]
pub(crate) enum Table {
    /// Points and whose they are, in order.
    Ring(Box<[(u64, u16)]>),
    Maglev(Box<[u16]>),
}

/// 64 bits of what is the same everywhere.
#[must_use]
pub(super) fn hash(parts: &[&[u8]]) -> u64 {
    let digest = match parts {
        [one] => digest(&SHA256, one),
        many => digest(&SHA256, &many.join(&b"\0"[..])),
    };
    let mut first = [0; 8];
    first.copy_from_slice(&digest.as_ref()[..8]);
    u64::from_be_bytes(first)
}

/// Another number for the same key (the last steps of SplitMix64).
#[must_use]
pub(super) fn again(hash: u64, salt: u64) -> u64 {
    let mut x = hash.wrapping_add(salt.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Table {
    /// The table that `balance` needs, if it needs one.
    #[must_use]
    pub(crate) fn new(balance: &Balance, endpoints: &[Endpoint]) -> Option<Self> {
        if endpoints.is_empty() {
            return None;
        }
        match balance {
            Balance::RingHash(_) => Some(ring(endpoints)),
            Balance::Maglev(_) => Some(maglev(endpoints)),
            Balance::LeastRequest | Balance::RoundRobin | Balance::PowerOfTwo => None,
        }
    }

    /// The endpoint of `hash` among those that are `usable`, of `count`.
    pub(super) fn find(&self, hash: u64, count: usize, usable: impl Fn(usize) -> bool) -> Option<usize> {
        (0..TRIES)
            .map(|salt| self.at(again(hash, salt)))
            .find(|&index| usable(index))
            // Few are left: the highest random weight decides (rendezvous hashing).
            .or_else(|| {
                (0..count)
                    .filter(|&index| usable(index))
                    .max_by_key(|&index| again(hash, TRIES + index as u64))
            })
    }

    fn at(&self, hash: u64) -> usize {
        usize::from(match self {
            Self::Ring(points) => {
                let next = points.partition_point(|&(point, _)| point < hash);
                // Behind the last point comes the first.
                points[if next == points.len() { 0 } else { next }].1
            }
            Self::Maglev(places) => places[place(hash)],
        })
    }
}

fn place(hash: u64) -> usize {
    usize::try_from(hash % PLACES).unwrap_or(0)
}

fn name(endpoint: &Endpoint) -> &[u8] {
    endpoint.authority.as_str().as_bytes()
}

fn ring(endpoints: &[Endpoint]) -> Table {
    let count = endpoints.len();
    let total: usize = endpoints
        .iter()
        .map(|endpoint| usize::from(endpoint.weight.get()))
        .sum();
    let each = POINTS.min(MAX_POINTS / count).max(1);
    let mut points: Vec<(u64, u16)> = Vec::new();
    for (index, endpoint) in (0..).zip(endpoints) {
        // In proportion to the weight, of which the average is total / count.
        let own = (usize::from(endpoint.weight.get()) * each * count).div_ceil(total);
        let start = hash(&[name(endpoint)]);
        points.extend((0..own as u64).map(|point| (again(start, point), index)));
    }
    points.sort_unstable();
    points.dedup_by_key(|(point, _)| *point);
    Table::Ring(points.into())
}

/// Each endpoint in turn takes the next free place of its own permutation, the heavier more often.
fn maglev(endpoints: &[Endpoint]) -> Table {
    struct Taker {
        offset: u64,
        skip: u64,
        next: u64,
        weight: u32,
        credit: u32,
    }
    let mut takers: Vec<Taker> = endpoints
        .iter()
        .map(|endpoint| Taker {
            offset: hash(&[name(endpoint), b"offset"]) % PLACES,
            skip: hash(&[name(endpoint), b"skip"]) % (PLACES - 1) + 1,
            next: 0,
            weight: endpoint.weight.get().into(),
            credit: 0,
        })
        .collect();
    let heaviest = takers.iter().map(|taker| taker.weight).max().unwrap_or(1);
    let mut places: Vec<Option<u16>> = vec![None; place(PLACES - 1) + 1];
    let mut free = places.len();
    while free > 0 {
        for (index, taker) in (0..).zip(&mut takers) {
            taker.credit += taker.weight;
            if taker.credit < heaviest || free == 0 {
                continue;
            }
            taker.credit -= heaviest;
            loop {
                let at = place(taker.offset + taker.next * taker.skip);
                taker.next += 1;
                if places[at].is_none() {
                    places[at] = Some(index);
                    free -= 1;
                    break;
                }
            }
        }
    }
    Table::Maglev(places.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use proptest::prelude::*;

    use super::*;
    use enforcer_model::HashKey;

    const KEYS: u64 = 20_000;

    fn endpoints(weights: &[u16]) -> Vec<Endpoint> {
        let endpoint = |(index, &weight)| Endpoint {
            authority: format!("10.0.0.{index}:80").parse().unwrap(),
            https: false,
            weight: NonZeroU16::new(weight).unwrap(),
            zone: None,
        };
        weights.iter().enumerate().map(endpoint).collect()
    }

    fn both() -> [Balance; 2] {
        [
            Balance::RingHash(HashKey::Source),
            Balance::Maglev(HashKey::Source),
        ]
    }

    fn key(number: u64) -> u64 {
        hash(&[&number.to_be_bytes()])
    }

    #[test]
    fn keys_follow_weights() {
        let weights = [1, 1, 2, 4];
        for (balance, tolerance) in both().into_iter().zip([0.15, 0.05]) {
            let table = Table::new(&balance, &endpoints(&weights)).unwrap();
            let mut got = [0.0; 4];
            for number in 0..KEYS {
                got[table.find(key(number), 4, |_| true).unwrap()] += 1.0;
            }
            for (got, weight) in got.iter().zip(weights) {
                let expected = KEYS as f64 * f64::from(weight) / 8.0;
                let off = (got - expected).abs() / expected;
                assert!(off < tolerance, "{balance:?} {weight}: {got} of {expected}");
            }
        }
    }

    #[test]
    fn an_endpoint_that_cannot_be_used_moves_its_keys_alone() {
        for balance in both() {
            let table = Table::new(&balance, &endpoints(&[1; 10])).unwrap();
            let mut moved = [0; 10];
            for number in 0..KEYS {
                let before = table.find(key(number), 10, |_| true).unwrap();
                let after = table.find(key(number), 10, |index| index != 3).unwrap();
                if before == 3 {
                    moved[after] += 1;
                } else {
                    assert_eq!(before, after, "{balance:?}");
                }
            }
            // They spread over all others.
            let share = moved.iter().sum::<i32>() / 9;
            for (index, count) in moved.into_iter().enumerate().filter(|&(index, _)| index != 3) {
                assert!(
                    count > share / 2 && count < share * 2,
                    "{balance:?} {index}: {count} of {share}"
                );
            }
            assert_eq!(moved[3], 0);
        }
    }

    #[test]
    fn an_endpoint_that_leaves_disturbs_little() {
        for (balance, others) in both().into_iter().zip([0.0, 0.03]) {
            let all = endpoints(&[1; 10]);
            let (mut fewer, mut strangers) = (all.clone(), 0);
            fewer.remove(9);
            let (before, after) = (
                Table::new(&balance, &all).unwrap(),
                Table::new(&balance, &fewer).unwrap(),
            );
            for number in 0..KEYS {
                let was = before.find(key(number), 10, |_| true).unwrap();
                let is = after.find(key(number), 9, |_| true).unwrap();
                strangers += i32::from(was != 9 && was != is);
            }
            let share = f64::from(strangers) / KEYS as f64;
            assert!(
                share <= others,
                "{balance:?}: {share} of the keys moved without need"
            );
        }
    }

    proptest! {
        #[test]
        fn whoever_is_left_is_found(weights in prop::collection::vec(1_u16..1000, 1..40), left: prop::sample::Index, hash: u64) {
            for balance in both() {
                let table = Table::new(&balance, &endpoints(&weights)).unwrap();
                let left = left.index(weights.len());
                prop_assert_eq!(table.find(hash, weights.len(), |index| index == left), Some(left));
                prop_assert_eq!(table.find(hash, weights.len(), |_| false), None);
            }
        }
    }
}
