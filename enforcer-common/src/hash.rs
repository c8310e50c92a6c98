//! SipHash-1-3 (Aumasson and Bernstein, 2012) of two words under a 128-bit key.
//!
//! Sources choose what is hashed, so the key is secret and drawn anew at each boot: without it nobody
//! can aim at another's cells.

/// A secret key.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Key {
    /// First half.
    pub k0: u64,
    /// Second half.
    pub k1: u64,
}

const _: () = assert!(size_of::<Key>() == 16);

/// The hash of the sixteen bytes `[first, second]`, as the reference implementation gives it for
/// them in little-endian order.
#[inline(always)]
#[must_use]
pub fn siphash13(key: Key, first: u64, second: u64) -> u64 {
    let mut v = [
        key.k0 ^ 0x736f_6d65_7073_6575,
        key.k1 ^ 0x646f_7261_6e64_6f6d,
        key.k0 ^ 0x6c79_6765_6e65_7261,
        key.k1 ^ 0x7465_6462_7974_6573,
    ];
    absorb(&mut v, first);
    absorb(&mut v, second);
    // The closing word holds the length modulo 256 in its top byte.
    absorb(&mut v, 16 << 56);
    v[2] ^= 0xff;
    round(&mut v);
    round(&mut v);
    round(&mut v);
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline(always)]
fn absorb(v: &mut [u64; 4], word: u64) {
    v[3] ^= word;
    round(v);
    v[0] ^= word;
}

#[inline(always)]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    extern crate std;
    use core::hash::Hasher as _;

    use super::*;

    #[test]
    fn agrees_with_the_standard_library() {
        // `DefaultHasher` is SipHash-1-3 with a zero key.
        for (first, second) in [(0, 0), (1, 2), (u64::MAX, 0x0123_4567_89ab_cdef)] {
            let mut reference = std::collections::hash_map::DefaultHasher::new();
            reference.write_u64(first);
            reference.write_u64(second);
            assert_eq!(siphash13(Key { k0: 0, k1: 0 }, first, second), reference.finish());
        }
    }

    #[test]
    fn another_key_is_another_hash() {
        let hash = |k0| siphash13(Key { k0, k1: 7 }, 1, 2);
        assert_ne!(hash(1), hash(2));
    }
}
