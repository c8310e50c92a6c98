//! Proofs that were used, each until it is too old to be used again.
//!
//! They lie in parts with a lock each, so that workers seldom meet. Memory is bounded: a full part
//! refuses new proofs until old ones have ended, and never forgets one before.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::hmac;

use super::ProofError;

/// How many parts there are.
const PARTS: usize = 64;
/// How many proofs a part remembers. All parts: 1,048,576 proofs, of some 60 bytes each.
const PART_CAPACITY: usize = 16_384;

/// A keyed hash of a key's thumbprint and a `jti`. 128 bits: that two are equal by chance has no
/// probability to speak of, and nobody can aim at it.
pub(super) type Digest = [u8; 16];

/// The digest of a proof.
pub(super) fn digest(secret: &hmac::Key, thumbprint: &[u8; 32], id: &str) -> Digest {
    let mut context = hmac::Context::with_key(secret);
    context.update(b"proof");
    // Of constant length, so that it and the `jti` cannot run into each other.
    context.update(thumbprint);
    context.update(id.as_bytes());
    let mut digest = [0; 16];
    digest.copy_from_slice(&context.sign().as_ref()[..16]);
    digest
}

/// All of them.
#[derive(Debug)]
pub(super) struct Replays {
    parts: Box<[Mutex<Part>]>,
    part_capacity: usize,
}

#[derive(Debug, Default)]
struct Part {
    seen: HashSet<Digest>,
    /// The same, by the second in which they end, soonest first.
    ends: BinaryHeap<Reverse<(u64, Digest)>>,
}

impl Default for Replays {
    fn default() -> Self {
        Self::new(PARTS, PART_CAPACITY)
    }
}

impl Replays {
    fn new(parts: usize, part_capacity: usize) -> Self {
        Self {
            parts: std::iter::repeat_with(Mutex::default).take(parts).collect(),
            part_capacity,
        }
    }

    /// Remembers a proof that is used at `now` and can be until `ends`, both since the epoch.
    ///
    /// # Errors
    /// If it was used before, or there is no place for it.
    pub(super) fn enter(&self, digest: Digest, ends: Duration, now: Duration) -> Result<(), ProofError> {
        let part = &self.parts[usize::from(digest[0]) % self.parts.len()];
        let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
        part.forget_ended(now.as_secs());
        if part.seen.contains(&digest) {
            return Err(ProofError::Replayed);
        }
        if part.seen.len() >= self.part_capacity {
            return Err(ProofError::Full);
        }
        part.seen.insert(digest);
        part.ends.push(Reverse((ends.as_secs(), digest)));
        Ok(())
    }
}

impl Part {
    /// One that ends within this second is kept.
    fn forget_ended(&mut self, now: u64) {
        while let Some(Reverse((ends, digest))) = self.ends.peek()
            && *ends < now
        {
            self.seen.remove(digest);
            self.ends.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn proofs_count_once_until_they_end() {
        let replays = Replays::default();
        assert_eq!(replays.enter([1; 16], at(160), at(100)), Ok(()));
        assert_eq!(
            replays.enter([1; 16], at(160), at(100)),
            Err(ProofError::Replayed)
        );
        assert_eq!(
            replays.enter([1; 16], at(160), at(160)),
            Err(ProofError::Replayed)
        );
        assert_eq!(replays.enter([2; 16], at(160), at(160)), Ok(()));
        assert_eq!(replays.enter([1; 16], at(221), at(161)), Ok(()), "it has ended");
    }

    #[test]
    fn a_full_memory_forgets_nothing_early() {
        let replays = Replays::new(1, 2);
        assert_eq!(replays.enter([1; 16], at(300), at(100)), Ok(()));
        assert_eq!(replays.enter([2; 16], at(160), at(100)), Ok(()));
        assert_eq!(replays.enter([3; 16], at(160), at(100)), Err(ProofError::Full));
        assert_eq!(
            replays.enter([1; 16], at(160), at(100)),
            Err(ProofError::Replayed)
        );
        assert_eq!(
            replays.enter([3; 16], at(260), at(161)),
            Ok(()),
            "the second has ended"
        );
        assert_eq!(
            replays.enter([1; 16], at(300), at(161)),
            Err(ProofError::Replayed)
        );
    }

    #[test]
    fn digests_tell_keys_and_names_apart() {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &[1; 32]);
        let one = digest(&secret, &[1; 32], "a");
        assert_eq!(one, digest(&secret, &[1; 32], "a"));
        assert_ne!(one, digest(&secret, &[2; 32], "a"));
        assert_ne!(one, digest(&secret, &[1; 32], "b"));
        let other = hmac::Key::new(hmac::HMAC_SHA256, &[2; 32]);
        assert_ne!(one, digest(&other, &[1; 32], "a"));
    }
}
