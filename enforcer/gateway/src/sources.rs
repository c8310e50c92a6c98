//! What one source may take of the gateway before it has said a word: connections, and handshakes.
//!
//! A source is an IPv4 address or an IPv6 /64, the least that one client has. The prefixes around it have bounds of their
//! own: see [`super::levels`].

use std::{
    cell::{Cell, RefCell},
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    num::NonZeroU64,
    rc::Rc,
    time::Instant,
};

use enforcer_common::limiter::ParamsError;
use enforcer_model::quota::source_buckets;

use super::{
    levels::{Held, LEVELS, levels},
    limit::sketch::Sketch,
};
use enforcer_model::leaf::Rate;

/// Lines of the sketch of each level: 4 MiB and twice 1 MiB, of which as much is in memory as sources have used.
const LINES: [usize; LEVELS] = [1 << 16, 1 << 14, 1 << 14];

/// Token buckets of sources and of the prefixes around them, over all workers, in constant memory and without a lock.
///
/// They decide what the gateway takes in, never what the kernel drops: see [`super::limit::sketch`] for how seldom others
/// use up the bucket of a source.
#[derive(Debug)]
pub(crate) struct Budgets {
    sketches: [Sketch; LEVELS],
    /// Secret, so that nobody can aim at somebody else's cells.
    hasher: RandomState,
    start: Instant,
}

impl Budgets {
    /// A source may have `burst` at once, and as many as `rate` says; a wider prefix [`enforcer_model::quota::TIMES`] as many.
    ///
    /// # Errors
    /// No limiter keeps that rate.
    pub(crate) fn new(rate: Rate, burst: NonZeroU64) -> Result<Self, ParamsError> {
        let [own, wider, widest] = source_buckets(rate, burst)?;
        Ok(Self {
            sketches: [
                Sketch::new(own, LINES[0]),
                Sketch::new(wider, LINES[1]),
                Sketch::new(widest, LINES[2]),
            ],
            hasher: RandomState::new(),
            start: Instant::now(),
        })
    }

    /// Whether `source` may have one more now; if so, it is charged. A `known` source is not refused for what its
    /// neighbours do.
    pub(crate) fn admit(&self, source: IpAddr, known: bool) -> bool {
        let now_ns = self.now_ns();
        self.cells(source)
            .all(|(level, sketch, key)| sketch.charge(key, now_ns, 1).admitted() || (known && level > 0))
    }

    /// Whether [`Self::admit`] would admit one more, which is not charged.
    pub(crate) fn would_admit(&self, source: IpAddr, known: bool) -> bool {
        let now_ns = self.now_ns();
        self.cells(source).all(|(level, sketch, key)| {
            let state = sketch.state(key, now_ns);
            (known && level > 0) || sketch.params().charge(state, now_ns, 1).admitted()
        })
    }

    /// Charges `source`, as far as there is something left.
    pub(crate) fn charge(&self, source: IpAddr) {
        let now_ns = self.now_ns();
        for (_, sketch, key) in self.cells(source) {
            // Beyond, there is nothing to be charged.
            let _ = sketch.charge(key, now_ns, 1);
        }
    }

    fn cells(&self, source: IpAddr) -> impl Iterator<Item = (usize, &Sketch, u64)> {
        levels(source).map(|(level, prefix)| (level, &self.sketches[level], self.hasher.hash_one(prefix)))
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// A worker's connections by source. Bounded as they are.
#[derive(Debug)]
pub(super) struct Shares {
    /// Of each level.
    most: Cell<[usize; LEVELS]>,
    held: RefCell<Held>,
}

/// A connection's part in its source's share.
#[derive(Debug)]
pub(super) struct Part {
    shares: Rc<Shares>,
    source: IpAddr,
}

impl Shares {
    /// A source has `most` connections at a time of `all`; the prefixes around it three quarters, if that is more.
    pub(super) fn new(most: usize, all: usize) -> Rc<Self> {
        let shares = Self {
            most: Cell::default(),
            held: RefCell::default(),
        };
        shares.set(most, all);
        Rc::new(shares)
    }

    /// The same from now on. Who has more keeps what it has.
    pub(super) fn set(&self, most: usize, all: usize) {
        let wide = most.max(all - all / 4);
        self.most.set([most, wide, wide]);
    }

    /// A part for one more connection of `source`, if its shares have one left.
    pub(super) fn take(self: &Rc<Self>, source: IpAddr) -> Option<Part> {
        let mut held = self.held.borrow_mut();
        let most = self.most.get();
        if levels(source).any(|(level, prefix)| held.of(&prefix) >= most[level]) {
            return None;
        }
        held.add(source);
        Some(Part {
            shares: Rc::clone(self),
            source,
        })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.shares.held.borrow_mut().remove(self.source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_source_has_its_share_and_no_more_and_leaves_nothing_behind() {
        let shares = Shares::new(2, 8);
        let take = |text: &str| shares.take(address(text));
        let (first, second) = (take("2001:db8::1"), take("2001:db8::2"));
        assert!(first.is_some() && second.is_some());
        assert!(take("2001:db8::3").is_none(), "one /64 is one source");
        let other = take("2001:db8:1::1");
        assert!(other.is_some());
        drop(first);
        let again = take("2001:db8::3");
        assert!(again.is_some());
        let mapped = (take("192.0.2.1"), take("::ffff:192.0.2.1"));
        assert!(mapped.0.is_some() && mapped.1.is_some() && take("192.0.2.1").is_none());
        drop((second, other, again, mapped));
        assert!(shares.held.borrow().is_empty());
    }

    #[test]
    fn a_budget_is_the_sources_own() {
        let budgets = Budgets::new("1/h".parse().unwrap(), NonZeroU64::new(2).unwrap()).unwrap();
        let source = address("192.0.2.1");
        let admit = |source| budgets.admit(source, false);
        assert!(admit(source) && admit(source) && !admit(source));
        assert!(admit(address("192.0.2.2")));
        assert!(admit(address("2001:db8::1")) && admit(address("2001:db8::2")));
        assert!(!admit(address("2001:db8::3")));
    }

    #[test]
    fn m7_a_wide_prefix_has_a_budget_which_does_not_concern_known_sources() {
        let budgets = Budgets::new("1/h".parse().unwrap(), NonZeroU64::new(2).unwrap()).unwrap();
        let network = |n: u16| IpAddr::from([0x2001, 0xdb8, 0, n << 8, 0, 0, 0, 1]);
        let admitted = (0..256).filter(|&n| budgets.admit(network(n), false));
        assert_eq!(admitted.count(), 2 * 16, "of a /48");
        assert!(!budgets.would_admit(network(255), false));
        assert!(budgets.would_admit(network(255), true) && budgets.admit(network(255), true));
        assert!(
            budgets.would_admit(address("2001:db8:1::1"), false),
            "another /48"
        );
    }

    #[test]
    fn m7_no_prefix_has_all_connections() {
        let shares = Shares::new(8, 16);
        let mut parts = Vec::new();
        for n in 0..64_u16 {
            parts.extend(shares.take(IpAddr::from([0x2001, 0xdb8, 0, n, 0, 0, 0, 1])));
        }
        assert_eq!(parts.len(), 12, "three quarters");
        assert!(shares.take(address("2001:db8:1::1")).is_some());
    }
}
