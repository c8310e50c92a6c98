//! Proofs that were used, each until it is too old to be used again.
//!
//! They lie in parts with a lock each, so that workers seldom meet. Memory is bounded: a full part
//! refuses new proofs until old ones have ended, and never forgets one before.
//!
//! Nobody fills it alone: whoever holds a seventh as many places as are free gets no more. So one holder has at
//! most an eighth of all, and some who take what they can still leave room, of which everybody else may have an
//! eighth. A holder is a token's subject at its issuer, and not a key, of which clients make as many as they like;
//! nor an address, behind which many may be.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, hash_map::Entry},
    hash::{BuildHasher, RandomState},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::hmac;

use super::ProofError;
use enforcer_model::Name;

/// How many parts there are.
const PARTS: usize = 64;
/// How many proofs a part remembers. All parts: 1,048,576 proofs, of some 100 bytes each.
const PART_CAPACITY: usize = 16_384;
/// So many free places there must be for each one that a holder has.
const FREE_FOR_EACH: usize = 7;

/// A keyed hash of a key's thumbprint and a `jti`. 128 bits: that two are equal by chance has no
/// probability to speak of, and nobody can aim at it.
pub(super) type Digest = [u8; 16];

/// A keyed hash of the issuer and the subject of a token. Two that are equal by chance share what one may have.
pub(super) type Holder = u64;

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
    holders: RandomState,
}

#[derive(Debug, Default)]
struct Part {
    seen: HashSet<Digest>,
    /// The same, by the second in which they end, soonest first.
    ends: BinaryHeap<Reverse<(u64, Digest, Holder)>>,
    /// How many of them each has. The digests spread everybody's proofs evenly over the parts.
    held: HashMap<Holder, usize>,
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
            holders: RandomState::new(),
        }
    }

    /// Who holds the proofs for a token.
    pub(super) fn holder(&self, issuer: &Name, subject: &str) -> Holder {
        self.holders.hash_one((issuer, subject))
    }

    /// Remembers a proof of `holder`'s that is used at `now` and can be until `ends`, both since the epoch.
    ///
    /// # Errors
    /// If it was used before, or there is no place for it.
    pub(super) fn enter(
        &self,
        digest: Digest,
        holder: Holder,
        ends: Duration,
        now: Duration,
    ) -> Result<(), ProofError> {
        let part = &self.parts[usize::from(digest[0]) % self.parts.len()];
        let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
        part.forget_ended(now.as_secs());
        if part.seen.contains(&digest) {
            return Err(ProofError::Replayed);
        }
        let free = self.part_capacity.saturating_sub(part.seen.len());
        if free == 0 {
            return Err(ProofError::Full);
        }
        let held = part.held.get(&holder).copied().unwrap_or(0);
        // The first is always taken while there is a place.
        if held > 0 && held * FREE_FOR_EACH >= free {
            return Err(ProofError::OverShare);
        }
        part.held.insert(holder, held + 1);
        part.seen.insert(digest);
        part.ends.push(Reverse((ends.as_secs(), digest, holder)));
        Ok(())
    }
}

impl Part {
    /// One that ends within this second is kept.
    fn forget_ended(&mut self, now: u64) {
        while let Some(&Reverse((ends, digest, holder))) = self.ends.peek()
            && ends < now
        {
            self.ends.pop();
            self.seen.remove(&digest);
            if let Entry::Occupied(mut held) = self.held.entry(holder) {
                *held.get_mut() -= 1;
                if *held.get() == 0 {
                    held.remove();
                }
            }
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
        assert_eq!(replays.enter([1; 16], 1, at(160), at(100)), Ok(()));
        assert_eq!(
            replays.enter([1; 16], 1, at(160), at(100)),
            Err(ProofError::Replayed)
        );
        assert_eq!(
            replays.enter([1; 16], 1, at(160), at(160)),
            Err(ProofError::Replayed)
        );
        assert_eq!(replays.enter([2; 16], 2, at(160), at(160)), Ok(()));
        assert_eq!(
            replays.enter([1; 16], 1, at(221), at(161)),
            Ok(()),
            "it has ended"
        );
    }

    #[test]
    fn a_full_memory_forgets_nothing_early() {
        let replays = Replays::new(1, 2);
        assert_eq!(replays.enter([1; 16], 1, at(300), at(100)), Ok(()));
        assert_eq!(replays.enter([2; 16], 2, at(160), at(100)), Ok(()));
        assert_eq!(replays.enter([3; 16], 3, at(160), at(100)), Err(ProofError::Full));
        assert_eq!(
            replays.enter([1; 16], 1, at(160), at(100)),
            Err(ProofError::Replayed)
        );
        assert_eq!(
            replays.enter([3; 16], 3, at(260), at(161)),
            Ok(()),
            "the second has ended"
        );
        assert_eq!(
            replays.enter([1; 16], 1, at(300), at(161)),
            Err(ProofError::Replayed)
        );
    }

    #[test]
    fn nobody_fills_the_memory_alone() {
        const CAPACITY: usize = 1_000;
        let replays = Replays::new(1, CAPACITY);
        let mut next = 0_u128;
        let mut enter = |holder: Holder, now| {
            next += 1;
            replays.enter(next.to_be_bytes(), holder, at(now + 60), at(now))
        };
        let mut takes = |holder, now| {
            let taken = (0..CAPACITY).find(|_| enter(holder, now).is_err());
            assert_eq!(enter(holder, now), Err(ProofError::OverShare));
            taken.unwrap()
        };
        assert_eq!(takes(1, 100), CAPACITY / 8);
        let second = takes(2, 100);
        assert_eq!(second, 110, "an eighth of what the first one left");
        for greedy in 3..=20 {
            takes(greedy, 100);
        }
        assert!(
            takes(21, 100) >= 8,
            "twenty have taken what they can, and not all"
        );
        assert_eq!(takes(1, 161), CAPACITY / 8, "what has ended is given back");
        let part = replays.parts[0].lock().unwrap();
        assert_eq!((part.held.len(), part.seen.len()), (1, CAPACITY / 8));
    }

    #[test]
    fn subjects_of_two_issuers_are_two_holders() {
        let replays = Replays::default();
        let [a, b] = ["a", "b"].map(|name| name.parse::<Name>().unwrap());
        assert_eq!(replays.holder(&a, "alice"), replays.holder(&a, "alice"));
        assert_ne!(replays.holder(&a, "alice"), replays.holder(&b, "alice"));
        assert_ne!(replays.holder(&a, "alice"), replays.holder(&a, "bob"));
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
