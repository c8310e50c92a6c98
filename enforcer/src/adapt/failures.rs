//! Counts failed authentication by source, exactly: a source over the configured rate is to be denied for a while.
//!
//! A denial drops packets, so no other source's failures may bring it about. Each source therefore has a counter of its
//! own, and no sketch decides. Memory is bounded by [`MOST`]: the source that has not failed for longest is forgotten
//! first. To be forgotten before its counter has refilled, a source would need that many others to fail meanwhile.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use enforcer_common::limiter::{Algorithm, FRESH, Params, ParamsError};
use ipnet::IpNet;

use enforcer_model::{address::client_prefix, leaf::Rate};

/// Sources that are counted at one time: 8 MiB at most.
pub const MOST: usize = 65_536;

/// Failures of authentication by source: an IPv4 address or an IPv6 /64.
#[derive(Debug)]
pub struct Failures {
    params: Params,
    most: usize,
    counted: HashMap<IpNet, Counted>,
    /// The same sources by the turn of their last failure, longest ago first.
    order: BTreeMap<u64, IpNet>,
    next: u64,
}

#[derive(Clone, Copy, Debug)]
struct Counted {
    /// The limiter's.
    state: u64,
    turn: u64,
}

impl Failures {
    /// A source may fail as often as `rate` says.
    ///
    /// # Errors
    /// No limiter keeps that rate.
    pub fn new(rate: Rate) -> Result<Self, ParamsError> {
        Self::of(rate, MOST)
    }

    fn of(rate: Rate, most: usize) -> Result<Self, ParamsError> {
        let period_ns = u64::try_from(rate.period().as_nanos()).unwrap_or(u64::MAX);
        let amount = rate.amount().get();
        Ok(Self {
            params: Params::new(Algorithm::TokenBucket, amount, period_ns, amount)?,
            most,
            counted: HashMap::new(),
            order: BTreeMap::new(),
            next: 0,
        })
    }

    /// Counts a failure of `source`; whether that is one too many.
    #[must_use]
    pub fn record(&mut self, source: IpAddr, now_ns: u64) -> bool {
        let prefix = client_prefix(source);
        let known = self.counted.get(&prefix).copied();
        let decision = self
            .params
            .charge(known.map_or(FRESH, |known| known.state), now_ns, 1);
        match known {
            Some(known) => {
                self.order.remove(&known.turn);
            }
            None if self.counted.len() >= self.most => {
                if let Some((_, forgotten)) = self.order.pop_first() {
                    self.counted.remove(&forgotten);
                }
            }
            None => {}
        }
        let turn = self.next;
        self.next += 1;
        self.order.insert(turn, prefix);
        let state = decision.state;
        self.counted.insert(prefix, Counted { state, turn });
        !decision.admitted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn failures() -> Failures {
        Failures::new("10/m".parse().unwrap()).unwrap()
    }

    /// An address of the `n`th /64.
    fn network(n: u16) -> IpAddr {
        IpAddr::from([0x2001, 0xdb8, 0, n, 0, 0, 0, 1])
    }

    #[test]
    fn the_eleventh_failure_in_a_minute_is_one_too_many() {
        let mut failures = failures();
        let source = IpAddr::from([192, 0, 2, 1]);
        for second in 0..10 {
            assert!(!failures.record(source, (1_000 + second / 5) * SECOND));
        }
        assert!(failures.record(source, 1_002 * SECOND));
        assert!(
            !failures.record(IpAddr::from([192, 0, 2, 2]), 1_002 * SECOND),
            "another source"
        );
        assert!(!failures.record(source, 1_100 * SECOND), "after a while");
    }

    #[test]
    fn a_client_cannot_hide_in_its_own_prefix() {
        let mut failures = failures();
        let over = (0..11u16).map(|n| {
            let source = IpAddr::from([0x2001, 0xdb8, 0, 7, 0, 0, 0, n]);
            failures.record(source, 1_000 * SECOND)
        });
        assert_eq!(over.filter(|over| *over).count(), 1);
    }

    #[test]
    fn m2_others_at_the_edge_of_the_rate_never_make_a_bystanders_first_failure_one_too_many() {
        let mut failures = failures();
        for n in 0..4_096 {
            for _ in 0..10 {
                assert!(
                    !failures.record(network(n), 1_000 * SECOND),
                    "at the rate, not over it"
                );
            }
        }
        let denied = (50_000..51_000).filter(|&n| failures.record(network(n), 1_000 * SECOND));
        assert_eq!(denied.count(), 0);
        assert!(failures.record(network(7), 1_000 * SECOND), "its own eleventh");
    }

    #[test]
    fn m2_counters_are_bounded_and_who_goes_on_failing_stays() {
        let mut failures = Failures::of("10/m".parse().unwrap(), 4).unwrap();
        let source = network(0);
        for n in 1..=10 {
            assert!(!failures.record(source, 1_000 * SECOND));
            assert!(!failures.record(network(n), 1_000 * SECOND));
        }
        assert!(
            failures.record(source, 1_000 * SECOND),
            "others do not push it out"
        );
        assert_eq!((failures.counted.len(), failures.order.len()), (4, 4));
    }
}
