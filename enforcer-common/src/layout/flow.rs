//! Verified connections, and the sources that had one recently.

use super::{Address, RECENT_WORDS};
use crate::sketch::{is_mapped, words};

/// A verified TCP connection, as its packets arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// The peer.
    pub source: Address,
    /// The local end.
    pub destination: Address,
    /// In network byte order.
    pub source_port: u16,
    /// In network byte order.
    pub destination_port: u16,
}

/// Who is behind a verified connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// The identity's place among the budgets.
    pub identity: u32,
    /// Zero.
    pub reserved: u32,
}

/// A source that has, or had recently, a verified connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Recent {
    /// When the agent last knew of such a connection, in ns of the monotonic clock.
    pub seen_ns: u64,
    /// The place of its share among the reserves.
    pub place: u32,
    /// Zero.
    pub reserved: u32,
}

/// Who counts as one source there, as the words of an address: an IPv4 address, or an IPv6 /64.
#[inline(always)]
#[must_use]
pub const fn recent_words(high: u64, low: u64) -> (u64, u64) {
    if is_mapped(high, low) {
        (high, low)
    } else {
        (high, 0)
    }
}

/// The same as an address.
#[must_use]
pub fn recent_source(address: &Address) -> Address {
    let (high, low) = words(address);
    let (high, low) = recent_words(high, low);
    (u128::from(high) << 64 | u128::from(low)).to_be_bytes()
}

/// The bit that stands for a source, as its [`recent_words`]: a word's place, and the bit in it. A clear bit
/// says that the source is none of those remembered; a set one says nothing. Who chooses an address to meet a
/// set bit has gained one look into a map.
#[inline(always)]
#[must_use]
pub const fn recent_bit(high: u64, low: u64) -> (u32, u64) {
    let mixed = (high ^ low).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let number = (mixed >> 48) as u32;
    (number >> 6 & (RECENT_WORDS - 1), 1 << (number & 63))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::collections::HashSet;

    use super::*;
    use crate::sketch::mapped;

    #[test]
    fn a_recent_source_is_an_ipv4_address_or_a_64() {
        let ipv4 = mapped([192, 0, 2, 7]);
        assert_eq!(recent_source(&ipv4), ipv4);
        let mut ipv6 = [0x20; 16];
        let first = recent_source(&ipv6);
        ipv6[8..].fill(9);
        assert_eq!(recent_source(&ipv6), first);
        ipv6[7] = 1;
        assert_ne!(recent_source(&ipv6), first);
    }

    #[test]
    fn neighbours_have_different_bits() {
        let bits: HashSet<(u32, u64)> = (0..1_000)
            .map(|number| recent_bit(0, 0xffff_c000_0200 + number))
            .collect();
        assert!(bits.len() > 950, "{}", bits.len());
        assert!(
            bits.iter()
                .all(|(word, bit)| *word < RECENT_WORDS && bit.count_ones() == 1)
        );
    }
}
