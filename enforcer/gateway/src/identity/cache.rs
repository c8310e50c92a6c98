//! Tokens that were verified already, so that a request costs a hash instead of a signature.
//!
//! Each worker owns one: no lock, no shared cache line. Memory is bounded: a fixed number of places in sets of four, which
//! are there once they are used, and a new token takes the place of its set's least recently used one. A token's set is
//! chosen by a keyed hash, so that nobody can aim at the places of others; only tokens whose signature holds are entered
//! at all, and of their claims only those that rules look at.

use std::{
    sync::{Arc, Weak},
    time::SystemTime,
};

use aws_lc_rs::{
    digest::{SHA256, digest},
    error::Unspecified,
    rand,
};

use super::{
    bearer::Offered,
    kept,
    repeated::Accepted,
    token::{MAX_TOKEN, TokenError, VerifiedToken},
    verifier::Circumstances,
};
use enforcer_model::Name;

/// How many tokens a cache holds unless told otherwise.
pub const DEFAULT_CAPACITY: usize = 8192;

const WAYS: usize = 4;

/// How much memory the kept claims of one token may take, in bytes. A token with more is verified each time.
pub(super) const HEAVIEST: usize = 16 * 1024;

/// How long the secret is that only one cache has.
const SECRET: usize = 32;

/// A token's keyed hash.
pub(super) type Digest = [u8; 32];

/// A worker's verified tokens.
pub struct TokenCache {
    /// What is hashed: it begins with the secret, and keeps its memory from token to token.
    hashed: Vec<u8>,
    /// In memory are those that a token was entered in.
    sets: Box<[Option<Box<Set>>]>,
    /// Counts uses; an entry's value is that of its last use.
    clock: u64,
    hits: u64,
    misses: u64,
}

type Set = [Option<Entry>; WAYS];

struct Entry {
    digest: Digest,
    circumstances: Circumstances,
    last_use: u64,
    token: Arc<VerifiedToken>,
    /// As connections remember it, for as long as one does.
    accepted: Weak<Accepted>,
}

/// What came of looking a token up.
pub(super) struct Looked {
    pub(super) digest: Digest,
    /// Kept under the same circumstances, and not expired.
    pub(super) held: Option<Arc<VerifiedToken>>,
}

impl TokenCache {
    /// A cache of at least `capacity` tokens (a power of two, at least four).
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn new(capacity: usize) -> Result<Self, Unspecified> {
        let mut secret = vec![0; SECRET];
        rand::fill(&mut secret)?;
        let sets = capacity.div_ceil(WAYS).max(1).next_power_of_two();
        Ok(Self {
            hashed: secret,
            sets: std::iter::repeat_with(|| None).take(sets).collect(),
            clock: 0,
            hits: 0,
            misses: 0,
        })
    }

    /// Looks for what `token` of `issuer` was verified to be.
    ///
    /// # Errors
    /// If the token is too long to hold.
    pub(super) fn lookup(
        &mut self,
        issuer: &Name,
        circumstances: Circumstances,
        token: &str,
        now: SystemTime,
    ) -> Result<Looked, TokenError> {
        // Also bounds the work of hashing.
        if token.len() > MAX_TOKEN {
            return Err(TokenError::TooLong);
        }
        let digest = self.digest(issuer, token);
        self.clock += 1;
        let held = self
            .find(&digest)
            .filter(|entry| entry.circumstances == circumstances && now < entry.token.expires)
            .map(|entry| Arc::clone(&entry.token));
        match &held {
            Some(_) => self.hits += 1,
            None => self.misses += 1,
        }
        Ok(Looked { digest, held })
    }

    /// Keeps what the token of that hash was verified to be. `circumstances`: those of before it was.
    pub(super) fn keep(
        &mut self,
        digest: Digest,
        circumstances: Circumstances,
        verified: &Arc<VerifiedToken>,
        now: SystemTime,
    ) {
        // In its leeway after `exp` a token still holds, but an entry would be of no use.
        if now < verified.expires && kept::weight(&verified.claims) <= HEAVIEST {
            self.enter(Entry {
                digest,
                circumstances,
                last_use: self.clock,
                token: Arc::clone(verified),
                accepted: Weak::new(),
            });
        }
    }

    /// What a connection remembers of the token of that hash, which was found under these circumstances and `offered`
    /// in `field`: the same that others remember if they have sent the same bytes.
    pub(super) fn accepted(
        &mut self,
        digest: &Digest,
        circumstances: Circumstances,
        field: &[u8],
        offered: &Offered<'_>,
    ) -> Option<Arc<Accepted>> {
        let entry = self.find(digest)?;
        let shared = entry.accepted.upgrade();
        if let Some(shared) = shared.filter(|shared| shared.is(field, circumstances, &entry.token)) {
            return Some(shared);
        }
        let accepted = Accepted::new(field, offered, circumstances, &entry.token).map(Arc::new)?;
        entry.accepted = Arc::downgrade(&accepted);
        Some(accepted)
    }

    /// How many tokens were found, and how many had to be verified.
    #[must_use]
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits, self.misses)
    }

    /// The whole token counts, with its signature: equal claims under another signature are another
    /// entry. The secret in front makes it a hash that only this cache can compute.
    fn digest(&mut self, issuer: &Name, token: &str) -> Digest {
        self.hashed.truncate(SECRET);
        self.hashed.extend_from_slice(issuer.as_str().as_bytes());
        // A name holds no `.`, so that issuer and token cannot run into each other.
        self.hashed.push(b'.');
        self.hashed.extend_from_slice(token.as_bytes());
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, &self.hashed).as_ref());
        hash
    }

    fn set(&mut self, digest: &Digest) -> &mut Option<Box<Set>> {
        let index = usize::from(digest[0]) | usize::from(digest[1]) << 8 | usize::from(digest[2]) << 16;
        let mask = self.sets.len() - 1;
        &mut self.sets[index & mask]
    }

    fn find(&mut self, digest: &Digest) -> Option<&mut Entry> {
        let clock = self.clock;
        let set = self.set(digest).as_deref_mut()?;
        let entry = set.iter_mut().flatten().find(|entry| entry.digest == *digest)?;
        entry.last_use = clock;
        Some(entry)
    }

    /// In the place of the same token, else in a free one, else in that of the least recently used.
    fn enter(&mut self, entry: Entry) {
        let set = self
            .set(&entry.digest)
            .get_or_insert_with(|| Box::new([const { None }; WAYS]));
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::Map;

    use super::{
        super::{bearer, scope::Scopes, token::Binding},
        *,
    };

    const HERE: Circumstances = Circumstances {
        epoch: 1,
        generation: None,
    };

    fn token(issuer: &Name, expires: SystemTime) -> Arc<VerifiedToken> {
        Arc::new(VerifiedToken {
            issuer: issuer.clone(),
            subject: "alice".into(),
            client_id: None,
            scopes: Scopes::default(),
            expires,
            holds_until: Some(expires),
            id: None,
            binding: Binding::Bearer,
            tier: None,
            claims: Map::new(),
        })
    }

    #[test]
    fn connections_with_the_same_credentials_share_what_they_remember() {
        let mut cache = TokenCache::new(4).unwrap();
        let issuer = "corp".parse().unwrap();
        let now = SystemTime::now();
        let verified = token(&issuer, now + Duration::from_secs(5));
        let looked = cache.lookup(&issuer, HERE, "a.b.c", now).unwrap();
        assert!(looked.held.is_none());
        cache.keep(looked.digest, HERE, &verified, now);
        let looked = cache.lookup(&issuer, HERE, "a.b.c", now).unwrap();
        assert!(Arc::ptr_eq(&looked.held.unwrap(), &verified));
        let digest = looked.digest;
        let mut remember = |field: &str| {
            let offered = bearer::token(field.as_bytes()).unwrap().unwrap();
            cache.accepted(&digest, HERE, field.as_bytes(), &offered).unwrap()
        };
        let first = remember("Bearer a.b.c");
        assert!(Arc::ptr_eq(first.token(), &verified));
        assert!(Arc::ptr_eq(&first, &remember("Bearer a.b.c")));
        let other = remember("bearer a.b.c");
        assert!(!Arc::ptr_eq(&first, &other));
        assert!(Arc::ptr_eq(&other, &remember("bearer a.b.c")));
        // Nobody else keeps it.
        assert_eq!((Arc::strong_count(&first), Arc::strong_count(&other)), (1, 1));
    }

    #[test]
    fn a_token_is_of_its_issuer_and_circumstances() {
        let mut cache = TokenCache::new(4).unwrap();
        let [issuer, other] = ["corp", "other"].map(|name| name.parse().unwrap());
        let now = SystemTime::now();
        let digest = cache.lookup(&issuer, HERE, "a.b.c", now).unwrap().digest;
        cache.keep(digest, HERE, &token(&issuer, now + Duration::from_secs(5)), now);
        let mut is_held = |issuer, circumstances, token, seconds| {
            let now = now + Duration::from_secs(seconds);
            let looked = cache.lookup(issuer, circumstances, token, now).unwrap();
            looked.held.is_some()
        };
        assert!(is_held(&issuer, HERE, "a.b.c", 4));
        assert!(!is_held(&issuer, HERE, "a.b.c", 5));
        assert!(!is_held(&issuer, HERE, "a.b.d", 0));
        assert!(!is_held(&other, HERE, "a.b.c", 0));
        let later = Circumstances { epoch: 2, ..HERE };
        assert!(!is_held(&issuer, later, "a.b.c", 0));
        assert!(is_held(&issuer, HERE, "a.b.c", 0));
    }
}
