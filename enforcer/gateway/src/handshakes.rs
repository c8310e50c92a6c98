//! Which handshakes go on when too many are under way.
//!
//! A handshake that waits for its client costs memory, and whoever wants to can have many of them wait. So nobody stands
//! in line behind them: at the bound one is given up. It is the oldest of the source that has most, in the widest prefix
//! that has most, so that a flood ends its own. Handshakes of sources that were verified lately are given up only if
//! there are no others.

use std::{
    cell::{Cell, RefCell},
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    rc::Rc,
};

use ipnet::IpNet;
use tokio::sync::Notify;

use super::levels::levels;

/// A worker's handshakes that are under way at one listener.
#[derive(Debug)]
pub(super) struct Handshakes {
    capacity: usize,
    next: Cell<u64>,
    under_way: RefCell<HashMap<u64, UnderWay>>,
    /// Those of sources that nobody has verified lately, and of sources that somebody has.
    crowds: RefCell<[Crowd; 2]>,
}

#[derive(Debug)]
struct UnderWay {
    source: IpAddr,
    /// The source was verified lately.
    known: bool,
    given_up: Rc<Notify>,
}

/// Handshakes by the widest prefix of their source.
#[derive(Debug, Default)]
struct Crowd(HashMap<IpNet, Group>);

/// Handshakes of one wide prefix, by source, each in order of beginning.
#[derive(Debug, Default)]
struct Group {
    total: usize,
    sources: BTreeMap<IpNet, BTreeSet<u64>>,
}

/// A handshake's place.
#[derive(Debug)]
pub(super) struct Seat<'a> {
    handshakes: &'a Handshakes,
    number: u64,
    given_up: Rc<Notify>,
}

impl Handshakes {
    /// At most `capacity` at a time, which is not zero.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            next: Cell::new(0),
            under_way: RefCell::default(),
            crowds: RefCell::default(),
        }
    }

    /// Begins a handshake of `source`, at the cost of another if there are too many.
    pub(super) fn begin(&self, source: IpAddr, known: bool) -> Seat<'_> {
        let number = self.next.replace(self.next.get() + 1);
        let given_up = Rc::new(Notify::new());
        let full = self.under_way.borrow().len() >= self.capacity;
        if let Some(other) = full.then(|| self.victim()).flatten()
            && let Some(other) = self.take(other)
        {
            other.given_up.notify_one();
        }
        self.crowds.borrow_mut()[usize::from(known)].add(number, source);
        let under_way = UnderWay {
            source,
            known,
            given_up: Rc::clone(&given_up),
        };
        self.under_way.borrow_mut().insert(number, under_way);
        Seat {
            handshakes: self,
            number,
            given_up,
        }
    }

    /// The one to give up: a stranger's if there is one.
    fn victim(&self) -> Option<u64> {
        let crowds = self.crowds.borrow();
        crowds.iter().find_map(Crowd::victim)
    }

    fn take(&self, number: u64) -> Option<UnderWay> {
        let taken = self.under_way.borrow_mut().remove(&number)?;
        self.crowds.borrow_mut()[usize::from(taken.known)].remove(number, taken.source);
        Some(taken)
    }
}

impl Crowd {
    fn add(&mut self, number: u64, source: IpAddr) {
        let (own, wide) = ends(source);
        let group = self.0.entry(wide).or_default();
        group.total += 1;
        group.sources.entry(own).or_default().insert(number);
    }

    fn remove(&mut self, number: u64, source: IpAddr) {
        let (own, wide) = ends(source);
        let Some(group) = self.0.get_mut(&wide) else {
            return;
        };
        group.total -= 1;
        if let Some(numbers) = group.sources.get_mut(&own) {
            numbers.remove(&number);
            if numbers.is_empty() {
                group.sources.remove(&own);
            }
        }
        if group.total == 0 {
            self.0.remove(&wide);
        }
    }

    /// The oldest of the source that has most, in the wide prefix that has most. Among equals the oldest.
    fn victim(&self) -> Option<u64> {
        let first = |numbers: &BTreeSet<u64>| Reverse(numbers.first().copied());
        let group = self.0.values().max_by_key(|group| {
            let oldest = group.sources.values().map(first).max();
            (group.total, oldest)
        })?;
        let source = group
            .sources
            .values()
            .max_by_key(|numbers| (numbers.len(), first(numbers)))?;
        source.first().copied()
    }
}

/// The narrowest and the widest prefix of a source.
fn ends(source: IpAddr) -> (IpNet, IpNet) {
    let mut prefixes = levels(source).map(|(_, prefix)| prefix);
    let own = prefixes.next().unwrap_or_else(|| source.into());
    (own, prefixes.last().unwrap_or(own))
}

impl Seat<'_> {
    /// Waits until the handshake is to be given up.
    pub(super) async fn given_up(&self) {
        self.given_up.notified().await;
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.handshakes.take(self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Waker},
    };

    use super::*;

    fn is_given_up(seat: &Seat<'_>) -> bool {
        let waiting = pin!(seat.given_up());
        waiting.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_oldest_makes_room_among_equals() {
        let handshakes = Handshakes::new(2);
        let begin = |source| handshakes.begin(address(source), false);
        let (first, second) = (begin("192.0.2.1"), begin("198.51.100.1"));
        assert!(!is_given_up(&first));
        let third = begin("203.0.113.1");
        assert!(is_given_up(&first) && !is_given_up(&second) && !is_given_up(&third));
        drop(third);
        let fourth = begin("203.0.113.1");
        assert!(!is_given_up(&second), "there was room");
        drop((first, second, fourth));
        assert!(handshakes.under_way.borrow().is_empty());
        assert!(handshakes.crowds.borrow().iter().all(|crowd| crowd.0.is_empty()));
    }

    #[test]
    fn m7_the_source_that_has_most_makes_room() {
        let handshakes = Handshakes::new(64);
        let slow = handshakes.begin(address("198.51.100.1"), false);
        let flood: Vec<_> = (0..1_000)
            .map(|_| handshakes.begin(address("192.0.2.1"), false))
            .collect();
        assert!(
            !is_given_up(&slow),
            "a flood of one source ends its own handshakes"
        );
        assert_eq!(flood.iter().filter(|seat| !is_given_up(seat)).count(), 63);
    }

    #[test]
    fn m7_the_prefix_that_has_most_makes_room() {
        let handshakes = Handshakes::new(64);
        let slow = handshakes.begin(address("2001:db8:1::1"), false);
        let again = handshakes.begin(address("2001:db8:1::1"), false);
        let flood: Vec<_> = (0..1_000_u16)
            .map(|n| handshakes.begin(IpAddr::from([0x2001, 0xdb8, 0, n, 0, 0, 0, 1]), false))
            .collect();
        assert!(
            !is_given_up(&slow) && !is_given_up(&again),
            "a /48 is one owner's"
        );
        assert_eq!(flood.iter().filter(|seat| !is_given_up(seat)).count(), 62);
    }

    #[test]
    fn m7_sources_that_were_verified_lately_go_last() {
        let handshakes = Handshakes::new(2);
        let known = [(); 2].map(|()| handshakes.begin(address("198.51.100.1"), true));
        let stranger = handshakes.begin(address("192.0.2.1"), false);
        assert!(
            is_given_up(&known[0]) && !is_given_up(&known[1]),
            "there was nobody else"
        );
        let other = handshakes.begin(address("203.0.113.1"), false);
        assert!(is_given_up(&stranger) && !is_given_up(&known[1]) && !is_given_up(&other));
    }
}
