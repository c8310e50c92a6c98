//! What all answers have in common: a packet becomes the one that goes back, in its own frame.

pub mod family;

use crate::frame::Header;

/// Ethernet's shortest frame, without its checksum.
pub const SHORTEST_FRAME: usize = 60;

/// Four bytes as they are to lie there.
#[inline(always)]
pub const fn word(bytes: [u8; 4]) -> u32 {
    u32::from_ne_bytes(bytes)
}

/// A sum for an Internet checksum (RFC 1071), of words as they lie there.
#[derive(Clone, Copy)]
pub struct Sum(u64);

impl Sum {
    /// Of some words.
    #[inline(always)]
    pub fn of(words: &[u32]) -> Self {
        let mut sum = Self(0);
        for word in words {
            sum = sum.add(*word);
        }
        sum
    }

    /// One word more.
    #[inline(always)]
    pub fn add(self, word: u32) -> Self {
        Self(self.0 + u64::from(word))
    }

    /// Both sums.
    #[inline(always)]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// With what a pseudo-header has besides addresses.
    #[inline(always)]
    pub fn pseudo(self, protocol: u8, length: u16) -> Self {
        let [high, low] = length.to_be_bytes();
        self.add(word([0, protocol, high, low]))
    }

    /// The checksum, as it is to lie there.
    #[inline(always)]
    pub fn checksum(self) -> u16 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        !((sum & 0xffff) + (sum >> 16)) as u16
    }
}

/// The addresses of both stations change places.
#[inline(always)]
pub fn turn_link(link: Header<12>) {
    let (to_high, to_low) = (link.u32::<0>(), link.u16::<4>());
    let (from_high, from_low) = (link.u32::<6>(), link.u16::<10>());
    link.put_u32::<0>(from_high);
    link.put_u16::<4>(from_low);
    link.put_u32::<6>(to_high);
    link.put_u16::<10>(to_low);
}
