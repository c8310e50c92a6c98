//! SipHash-1-3 (Aumasson and Bernstein, 2012) of one or two words under a 128-bit key, without the word
//! that closes messages of any length.
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

/// The hash of one word.
///
/// All inputs of this function are of one length, and so are those of [`of_two`], and the two end with
/// different constants: the closing word that tells lengths apart in SipHash, and its round, are not
/// needed. A flood's packets are all hashed, so each round counts.
#[inline(always)]
#[must_use]
pub fn of_one(key: Key, word: u64) -> u64 {
    let mut v = start(key);
    absorb(&mut v, word);
    finish(v, 0xee)
}

/// The hash of two words.
#[inline(always)]
#[must_use]
pub fn of_two(key: Key, first: u64, second: u64) -> u64 {
    let mut v = start(key);
    absorb(&mut v, first);
    absorb(&mut v, second);
    finish(v, 0xff)
}

#[inline(always)]
fn start(key: Key) -> [u64; 4] {
    [
        key.k0 ^ 0x736f_6d65_7073_6575,
        key.k1 ^ 0x646f_7261_6e64_6f6d,
        key.k0 ^ 0x6c79_6765_6e65_7261,
        key.k1 ^ 0x7465_6462_7974_6573,
    ]
}

#[inline(always)]
fn finish(mut v: [u64; 4], end: u64) -> u64 {
    v[2] ^= end;
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

    const KEY: Key = Key { k0: 0, k1: 0 };

    #[test]
    fn agrees_with_the_standard_library() {
        // `DefaultHasher` is SipHash-1-3 with a zero key. It absorbs one more word, which holds the length.
        for word in [0, 1, u64::MAX, 0x0123_4567_89ab_cdef] {
            let mut reference = std::collections::hash_map::DefaultHasher::new();
            reference.write_u64(word);
            assert_eq!(of_two(KEY, word, 8 << 56), reference.finish());
        }
    }

    #[test]
    fn one_word_is_not_two() {
        assert_ne!(of_one(KEY, 7), of_two(KEY, 7, 0));
        assert_ne!(of_one(KEY, 7), of_two(KEY, 0, 7));
    }

    #[test]
    fn half_of_the_bits_change_with_one_bit() {
        // The mean over 64 words and 64 bits is 32 ± 0.07 for a random function.
        let mut changed = 0;
        for word in (0..64_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
            for bit in 0..64 {
                changed += (of_one(KEY, word) ^ of_one(KEY, word ^ 1 << bit)).count_ones();
            }
        }
        let mean = f64::from(changed) / (64.0 * 64.0);
        assert!((mean - 32.0).abs() < 0.4, "{mean}");
    }

    #[test]
    fn another_key_is_another_hash() {
        for (k0, k1) in [(1, 0), (0, 1)] {
            let other = Key { k0, k1 };
            assert_ne!(of_one(KEY, 1), of_one(other, 1));
            assert_ne!(of_two(KEY, 1, 2), of_two(other, 1, 2));
        }
    }
}
