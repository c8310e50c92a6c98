//! Which addresses no access list is about: one bit for each IPv4 /24, set if any list has any prefix that
//! meets it. A clear bit spares the packet every walk through the trie; a set one decides nothing.
//!
//! IPv6 prefixes share the bits, by a hash of their first 32.

use crate::{
    layout::Address,
    sketch::{is_mapped, words},
};

/// Bits: a bit's number has this many.
const NUMBER_BITS: u32 = 24;
/// Words that hold them: 2 MiB.
pub const WORDS: u32 = 1 << (NUMBER_BITS - 6);
/// IPv6 prefixes of this length or longer have one bit.
const HASHED_BITS: u8 = 32;
/// Shorter ones than this are taken to meet every address.
const SHORTEST_V6: u8 = 12;

/// The number of an address's bit.
#[inline(always)]
#[must_use]
pub const fn number(address: &Address) -> u32 {
    let (high, low) = words(address);
    if is_mapped(high, low) {
        low as u32 >> (32 - NUMBER_BITS)
    } else {
        hashed((high >> 32) as u32)
    }
}

/// Times an odd number, and the upper bits: who chooses an address may choose its bit, and so that his
/// packets take the walk that all would take without this.
#[inline(always)]
const fn hashed(first: u32) -> u32 {
    first.wrapping_mul(0x9e37_79b1) >> (32 - NUMBER_BITS)
}

/// The bits that a prefix of an address meets, as words' places and the bits in them; `bits` counts from the
/// start of an IPv4 address as such.
pub fn met(address: &Address, bits: u8) -> impl Iterator<Item = (u32, u64)> + use<> {
    let (high, low) = words(address);
    let ipv4 = is_mapped(high, low);
    // Neighbouring numbers from the first on, or neighbours before they are hashed.
    let (first, count) = if ipv4 {
        let free = NUMBER_BITS.saturating_sub(u32::from(bits));
        ((low as u32 >> (32 - NUMBER_BITS)) >> free << free, 1_u32 << free)
    } else if bits < SHORTEST_V6 {
        (0, 1 << NUMBER_BITS)
    } else {
        let free = u32::from(HASHED_BITS.saturating_sub(bits));
        ((high >> 32) as u32 >> free << free, 1 << free)
    };
    let hashes = !ipv4 && bits >= SHORTEST_V6;
    // Counts are powers of two, and begin at multiples of themselves.
    let at_once = if hashes { 1 } else { count.min(64) };
    let run = u64::MAX >> (64 - at_once);
    (0..count / at_once).map(move |step| {
        let value = first.wrapping_add(step * at_once);
        let number = if hashes { hashed(value) } else { value };
        (number >> 6, run << (number & 63))
    })
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;
    use crate::sketch::mapped;

    fn v6(first: u32, rest: u8) -> Address {
        let mut address = [rest; 16];
        address[..4].copy_from_slice(&first.to_be_bytes());
        address
    }

    #[test]
    fn every_address_of_a_prefix_is_met() {
        for bits in [10, 16, 23, 24, 25, 32] {
            let set: Vec<(u32, u64)> = met(&mapped([100, 64, 3, 7]), bits).collect();
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            let network = u32::from_be_bytes([100, 64, 3, 7]) & mask;
            for host in [0, 1, 0x0001_0203, 0x00ff_00ff, u32::MAX] {
                let address = network | (host & !mask);
                assert!(holds(&set, &mapped(address.to_be_bytes())), "/{bits}");
            }
        }
        for bits in [13, 16, 31, 32, 33, 64, 128] {
            let set: Vec<(u32, u64)> = met(&v6(0x2001_0db8, 1), bits).collect();
            let mask = u32::MAX
                .checked_shl(u32::from(32_u8.saturating_sub(bits)))
                .unwrap_or(0);
            for host in [0, 1, 0x0001_0203, 0x00ff_00ff, u32::MAX] {
                let address = v6((0x2001_0db8 & mask) | (host & !mask), 9);
                assert!(holds(&set, &address), "/{bits}");
            }
        }
    }

    #[test]
    fn others_are_not_met() {
        let set: Vec<(u32, u64)> = met(&mapped([100, 64, 3, 0]), 24).collect();
        assert!(holds(&set, &mapped([100, 64, 3, 255])));
        for other in [[100, 64, 4, 0], [100, 64, 2, 255], [101, 64, 3, 0]] {
            assert!(!holds(&set, &mapped(other)));
        }
        let bits: u32 = met(&mapped([10, 0, 0, 0]), 8)
            .map(|(_, bits)| bits.count_ones())
            .sum();
        assert_eq!(bits, 1 << 16);
    }

    #[test]
    fn all_addresses_are_all_bits() {
        for all in [mapped([0; 4]), [0; 16]] {
            let expected = (0..WORDS).map(|place| (place, u64::MAX));
            assert!(met(&all, 0).eq(expected));
        }
    }

    fn holds(set: &[(u32, u64)], address: &Address) -> bool {
        let number = number(address);
        set.iter()
            .any(|(place, bits)| *place == number >> 6 && bits >> (number & 63) & 1 == 1)
    }
}
