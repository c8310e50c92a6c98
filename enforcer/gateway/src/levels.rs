//! The prefixes that a source is part of, from its own to the widest that one owner commonly has.
//!
//! Whoever has an IPv6 /48 has 65,536 networks of /64, and whoever rents an IPv4 /24 has 256 addresses. So what a source
//! may take is also bounded for the prefixes around it, which may take some times as much. A wide prefix only limits
//! what the gateway takes in: packets are never dropped for what a neighbour does.

use std::{collections::HashMap, net::IpAddr};

use ipnet::IpNet;

/// Bits of the prefixes, narrowest first. An IPv4 source has two.
const IPV4: [u8; 2] = [32, 24];
const IPV6: [u8; 3] = [64, 56, 48];
/// The most prefixes of a source.
pub(crate) const LEVELS: usize = IPV6.len();

/// The prefixes of `source` with their levels, narrowest first.
pub(crate) fn levels(source: IpAddr) -> impl Iterator<Item = (usize, IpNet)> {
    let source = source.to_canonical();
    let bits: &'static [u8] = if source.is_ipv4() { &IPV4 } else { &IPV6 };
    let prefix =
        move |&bits: &u8| IpNet::new(source, bits).map_or(IpNet::from(source), |prefix| prefix.trunc());
    bits.iter().map(prefix).enumerate()
}

/// How many of something each prefix holds. Bounded by how many there are, times [`LEVELS`].
#[derive(Debug, Default)]
pub(crate) struct Held(HashMap<IpNet, usize>);

impl Held {
    pub(crate) fn of(&self, prefix: &IpNet) -> usize {
        self.0.get(prefix).copied().unwrap_or(0)
    }

    /// `source` holds one more.
    pub(crate) fn add(&mut self, source: IpAddr) {
        for (_, prefix) in levels(source) {
            *self.0.entry(prefix).or_default() += 1;
        }
    }

    /// `source` holds one less.
    pub(crate) fn remove(&mut self, source: IpAddr) {
        for (_, prefix) in levels(source) {
            if let Some(held) = self.0.get_mut(&prefix) {
                *held -= 1;
                if *held == 0 {
                    self.0.remove(&prefix);
                }
            }
        }
    }

    /// Whether `source` may hold one more of a pool of which `free` are left: so many free ones there must be for each
    /// that a prefix of a level holds already. So a source comes to an eighth of all, the next wider prefix to a
    /// quarter, and the widest to half. The first of a source is taken while the wider prefixes have room.
    pub(crate) fn has_share(&self, source: IpAddr, free: usize) -> bool {
        const FREE_FOR_EACH: [usize; LEVELS] = [7, 3, 1];
        levels(source).all(|(level, prefix)| {
            let held = self.of(&prefix);
            held == 0 || held.saturating_mul(FREE_FOR_EACH[level]) < free
        })
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(source: &str) -> Vec<String> {
        let prefixes = levels(source.parse().unwrap());
        prefixes.map(|(_, prefix)| prefix.to_string()).collect()
    }

    #[test]
    fn m7_a_source_is_part_of_wider_prefixes() {
        assert_eq!(prefixes("192.0.2.7"), ["192.0.2.7/32", "192.0.2.0/24"]);
        assert_eq!(prefixes("::ffff:192.0.2.7"), ["192.0.2.7/32", "192.0.2.0/24"]);
        let wide = ["2001:db8:1:234::/64", "2001:db8:1:200::/56", "2001:db8:1::/48"];
        assert_eq!(prefixes("2001:db8:1:234::5"), wide);
    }

    #[test]
    fn m7_no_prefix_has_all_of_a_pool_however_many_sources_it_has() {
        const ALL: usize = 256;
        let mut held = Held::default();
        let mut free = ALL;
        let mut take = |source: IpAddr| {
            let takes = free > 0 && held.has_share(source, free);
            if takes {
                held.add(source);
                free -= 1;
            }
            takes
        };
        let own = (0..ALL).filter(|_| take("192.0.2.1".parse().unwrap())).count();
        assert_eq!(own, ALL / 8);
        let of_48 = (0..65_535_u16).filter(|&n| take(IpAddr::from([0x2001, 0xdb8, 0, n, 0, 0, 0, 1])));
        let of_48 = of_48.count();
        assert!((ALL / 4..=ALL / 2).contains(&of_48), "{of_48}");
        assert!(take("2001:db8:1::1".parse().unwrap()), "another /48 has room");
    }
}
