//! What one source may take of the gateway before it has said a word: connections, and handshakes.
//!
//! A source is an IPv4 address or an IPv6 /64, the least that one client has.

use std::{
    cell::RefCell,
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    num::NonZeroU64,
    rc::Rc,
    time::Instant,
};

use enforcer_common::limiter::{Algorithm, Params, ParamsError};

use super::limit::{key::source_prefix, sketch::Sketch};
use crate::policy::leaf::Rate;

/// Lines of the budgets' sketch: 256 KiB, whatever the number of sources.
const LINES: usize = 4_096;

/// Handshakes by source, over all workers, in constant memory.
#[derive(Debug)]
pub(crate) struct Budgets {
    sketch: Sketch,
    /// Secret, so that nobody can aim at somebody else's cells.
    hasher: RandomState,
    start: Instant,
}

impl Budgets {
    /// A source may begin `burst` handshakes at once, and as many as `rate` says.
    ///
    /// # Errors
    /// No limiter keeps that rate.
    pub(crate) fn new(rate: Rate, burst: NonZeroU64) -> Result<Self, ParamsError> {
        let period_ns = u64::try_from(rate.period().as_nanos()).unwrap_or(u64::MAX);
        let params = Params::new(
            Algorithm::TokenBucket,
            rate.amount().get(),
            period_ns,
            burst.get(),
        )?;
        Ok(Self {
            sketch: Sketch::new(params, LINES),
            hasher: RandomState::new(),
            start: Instant::now(),
        })
    }

    /// Whether `source` may begin a handshake now; if so, it is charged.
    pub(super) fn admit(&self, source: IpAddr) -> bool {
        let now_ns = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let key = self.hasher.hash_one(source_prefix(source));
        self.sketch.charge(key, now_ns, 1).admitted()
    }
}

/// A worker's connections by source. Bounded as they are.
#[derive(Debug)]
pub(super) struct Shares {
    most: usize,
    held: RefCell<HashMap<IpAddr, usize>>,
}

/// A connection's part in its source's share.
#[derive(Debug)]
pub(super) struct Part {
    shares: Rc<Shares>,
    source: IpAddr,
}

impl Shares {
    /// A source has `most` connections at a time.
    pub(super) fn new(most: usize) -> Rc<Self> {
        Rc::new(Self {
            most,
            held: RefCell::default(),
        })
    }

    /// A part for one more connection of `source`, if its share has one left.
    pub(super) fn take(self: &Rc<Self>, source: IpAddr) -> Option<Part> {
        let source = source_prefix(source);
        let mut held = self.held.borrow_mut();
        match held.entry(source) {
            Entry::Occupied(held) if *held.get() >= self.most => return None,
            Entry::Occupied(mut held) => *held.get_mut() += 1,
            Entry::Vacant(none) => {
                none.insert(1);
            }
        }
        Some(Part {
            shares: Rc::clone(self),
            source,
        })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut held = self.shares.held.borrow_mut();
        if let Entry::Occupied(mut held) = held.entry(self.source) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
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
        let shares = Shares::new(2);
        let take = |text: &str| shares.take(address(text));
        let (first, second) = (take("2001:db8::1"), take("2001:db8::2"));
        assert!(first.is_some() && second.is_some());
        assert!(take("2001:db8::3").is_none(), "one /64 is one source");
        let other = take("2001:db8:0:1::1");
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
        assert!(budgets.admit(source) && budgets.admit(source) && !budgets.admit(source));
        assert!(budgets.admit(address("192.0.2.2")));
        assert!(budgets.admit(address("2001:db8::1")) && budgets.admit(address("2001:db8::2")));
        assert!(!budgets.admit(address("2001:db8::3")));
    }
}
