//! Tokens that were verified already, so that a request costs a hash instead of a signature.
//!
//! Each worker owns one: no lock, no shared cache line. Memory is constant: a fixed number of places
//! in sets of four, and a new token takes the place of its set's least recently used one. A token's
//! set is chosen by a keyed hash, so that nobody can aim at the places of others; only tokens whose
//! signature holds are entered at all, and of their claims only those that rules look at.

use std::{sync::Arc, time::SystemTime};

use aws_lc_rs::{
    digest::{Context, SHA256},
    error::Unspecified,
    rand,
};

use super::{
    kept,
    token::{MAX_TOKEN, TokenError, VerifiedToken},
    verifier::{Circumstances, Verifier},
};
use crate::policy::model::Name;

/// How many tokens a cache holds unless told otherwise.
pub const DEFAULT_CAPACITY: usize = 8192;

const WAYS: usize = 4;

/// How much memory the kept claims of one token may take, in bytes. A token with more is verified each time.
pub(super) const HEAVIEST: usize = 16 * 1024;

/// A worker's verified tokens.
pub struct TokenCache {
    secret: [u8; 32],
    sets: Box<[[Option<Entry>; WAYS]]>,
    /// Counts uses; an entry's value is that of its last use.
    clock: u64,
    hits: u64,
    misses: u64,
}

struct Entry {
    digest: [u8; 32],
    circumstances: Circumstances,
    last_use: u64,
    token: Arc<VerifiedToken>,
}

impl TokenCache {
    /// A cache of at least `capacity` tokens (a power of two, at least four).
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn new(capacity: usize) -> Result<Self, Unspecified> {
        let mut secret = [0; 32];
        rand::fill(&mut secret)?;
        let sets = capacity.div_ceil(WAYS).max(1).next_power_of_two();
        Ok(Self {
            secret,
            sets: std::iter::repeat_with(|| [const { None }; WAYS])
                .take(sets)
                .collect(),
            clock: 0,
            hits: 0,
            misses: 0,
        })
    }

    /// Verifies `token`, by looking it up if the same issuer, policy and keys have verified it before
    /// and it has not expired.
    ///
    /// # Errors
    /// Why the token does not hold.
    pub fn verify(
        &mut self,
        verifier: &Verifier,
        issuer: &Name,
        token: &str,
        now: SystemTime,
    ) -> Result<Arc<VerifiedToken>, TokenError> {
        if let Some(held) = self.lookup(verifier, issuer, token, now)? {
            return Ok(held);
        }
        // Before it is verified: keys that change meanwhile are others.
        let circumstances = verifier.circumstances(issuer)?;
        let verified = verifier.verify(issuer, token, now)?;
        self.keep(issuer, token, circumstances, &verified, now);
        Ok(verified)
    }

    /// The token, if it was kept under the same circumstances and has not expired.
    ///
    /// # Errors
    /// If the token is too long to hold, or the issuer unknown.
    pub fn lookup(
        &mut self,
        verifier: &Verifier,
        issuer: &Name,
        token: &str,
        now: SystemTime,
    ) -> Result<Option<Arc<VerifiedToken>>, TokenError> {
        // Also bounds the work of hashing.
        if token.len() > MAX_TOKEN {
            return Err(TokenError::TooLong);
        }
        let circumstances = verifier.circumstances(issuer)?;
        let digest = self.digest(issuer, token);
        self.clock += 1;
        if let Some(entry) = self.find(&digest)
            && entry.circumstances == circumstances
            && now < entry.token.expires
        {
            let token = Arc::clone(&entry.token);
            self.hits += 1;
            return Ok(Some(token));
        }
        self.misses += 1;
        Ok(None)
    }

    /// Keeps what `token` was verified to be. `circumstances`: those of before it was.
    pub(super) fn keep(
        &mut self,
        issuer: &Name,
        token: &str,
        circumstances: Circumstances,
        verified: &Arc<VerifiedToken>,
        now: SystemTime,
    ) {
        // In its leeway after `exp` a token still holds, but an entry would be of no use.
        if now < verified.expires && kept::weight(&verified.claims) <= HEAVIEST {
            self.enter(Entry {
                digest: self.digest(issuer, token),
                circumstances,
                last_use: self.clock,
                token: Arc::clone(verified),
            });
        }
    }

    /// How many tokens were found, and how many had to be verified.
    #[must_use]
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits, self.misses)
    }

    /// The whole token counts, with its signature: equal claims under another signature are another
    /// entry. The secret in front makes it a hash that only this cache can compute.
    fn digest(&self, issuer: &Name, token: &str) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        context.update(&self.secret);
        context.update(issuer.as_str().as_bytes());
        // A name holds no `.`, so that issuer and token cannot run into each other.
        context.update(b".");
        context.update(token.as_bytes());
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        digest
    }

    fn set(&mut self, digest: &[u8; 32]) -> &mut [Option<Entry>; WAYS] {
        let index = usize::from(digest[0]) | usize::from(digest[1]) << 8 | usize::from(digest[2]) << 16;
        let mask = self.sets.len() - 1;
        &mut self.sets[index & mask]
    }

    fn find(&mut self, digest: &[u8; 32]) -> Option<&mut Entry> {
        let clock = self.clock;
        let entry = self
            .set(digest)
            .iter_mut()
            .flatten()
            .find(|entry| entry.digest == *digest)?;
        entry.last_use = clock;
        Some(entry)
    }

    /// In the place of the same token, else in a free one, else in that of the least recently used.
    fn enter(&mut self, entry: Entry) {
        let set = self.set(&entry.digest);
        let rank = |place: &Option<Entry>| match place {
            Some(held) if held.digest == entry.digest => (0, 0),
            None => (1, 0),
            Some(held) => (2, held.last_use),
        };
        if let Some(place) = set.iter_mut().min_by_key(|place| rank(place)) {
            *place = Some(entry);
        }
    }
}

/// Shows no token.
impl std::fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenCache")
            .field("places", &(self.sets.len() * WAYS))
            .field("hits", &self.hits)
            .field("misses", &self.misses)
            .finish_non_exhaustive()
    }
}
