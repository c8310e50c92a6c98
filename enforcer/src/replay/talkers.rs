//! Who sends most, in constant memory: the space-saving algorithm (Metwally, Agrawal and El Abbadi,
//! "Efficient Computation of Frequent and Top-k Elements in Data Streams", 2005).

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

/// Sources with a counter at one time. Of `n` packets no source with more than `n / CAPACITY` is missed,
/// and no count is too high by more than that; none is too low.
pub const CAPACITY: usize = 1_024;

/// A source and its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Talker {
    pub source: IpAddr,
    /// At most.
    pub packets: u64,
    /// By how much that may be too high.
    pub error: u64,
}

/// The counters.
#[derive(Default)]
pub struct Talkers {
    counters: HashMap<IpAddr, (u64, u64)>,
    /// By packets, so that the lowest is found at once.
    order: BTreeSet<(u64, IpAddr)>,
}

impl Talkers {
    /// Counts a packet.
    pub fn count(&mut self, source: IpAddr) {
        let (packets, error) = match self.counters.get(&source) {
            Some(&(packets, error)) => {
                self.order.remove(&(packets, source));
                (packets, error)
            }
            None if self.counters.len() < CAPACITY => (0, 0),
            None => match self.order.pop_first() {
                Some((packets, lowest)) => {
                    self.counters.remove(&lowest);
                    (packets, packets)
                }
                None => (0, 0),
            },
        };
        self.counters.insert(source, (packets + 1, error));
        self.order.insert((packets + 1, source));
    }

    /// The first `count`, the busiest first.
    #[must_use]
    pub fn top(&self, count: usize) -> Vec<Talker> {
        let busiest = self.order.iter().rev().take(count);
        busiest
            .map(|(packets, source)| Talker {
                source: *source,
                packets: *packets,
                error: self.counters.get(source).map_or(0, |(_, error)| *error),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn source(number: u32) -> IpAddr {
        Ipv4Addr::from(number).into()
    }

    #[test]
    fn few_sources_are_counted_exactly() {
        let mut talkers = Talkers::default();
        for number in 0..10 {
            for _ in 0..=number {
                talkers.count(source(number));
            }
        }
        let expected: Vec<Talker> = (7..10)
            .rev()
            .map(|number| Talker {
                source: source(number),
                packets: u64::from(number) + 1,
                error: 0,
            })
            .collect();
        assert_eq!(talkers.top(3), expected);
    }

    #[test]
    fn many_sources_keep_to_the_bound() {
        let mut talkers = Talkers::default();
        let mut sent = 0;
        for round in 0..200_000_u32 {
            // Half of all is from strangers who come once; the rest from five who keep coming.
            talkers.count(source(1_000_000 + round));
            talkers.count(source(round % 5));
            sent += 2;
        }
        assert_eq!(talkers.counters.len(), CAPACITY);
        let bound = sent / CAPACITY as u64;
        let top = talkers.top(5);
        for talker in &top {
            assert!(
                (0..5).any(|number| source(number) == talker.source),
                "{talker:?} is a stranger"
            );
            assert!(talker.error <= bound);
            assert!(
                (40_000..=40_000 + talker.error).contains(&talker.packets),
                "{talker:?}"
            );
        }
    }
}
