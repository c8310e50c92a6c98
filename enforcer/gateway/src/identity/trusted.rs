//! One issuer that the policy trusts: whether a token of it holds, and whether the client may use it.

use std::{
    cell::{Ref, RefCell},
    sync::Arc,
    time::SystemTime,
};

use http::HeaderMap;
use tokio::time::timeout;

use super::{
    bearer::Offered,
    cache::{Digest, Looked, TokenCache},
    dpop::{Asked, ProofChecker, ProofError},
    introspection::Asker,
    keystore::{KeyStore, REFETCH_WAIT},
    repeated::{Accepted, Repeated},
    token::{self, TokenError, VerifiedToken},
    verifier::{Checker, TrustedIssuer},
};

/// An issuer, and what remembers the proofs of its tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trusted<'a> {
    pub(super) issuer: &'a TrustedIssuer,
    pub(super) proofs: &'a ProofChecker,
}

impl Trusted<'_> {
    /// Whether tokens must be bound to a key.
    pub(crate) fn wants_proofs(&self) -> bool {
        self.issuer.policy.dpop.required
    }

    /// What a connection has sent before, if it sends the same `field` again and that still holds.
    pub(crate) fn recall<'r>(
        &self,
        repeated: &'r Repeated,
        field: &[u8],
        now: SystemTime,
    ) -> Option<Ref<'r, Accepted>> {
        repeated.recall(&self.issuer.policy.name, self.issuer.circumstances(), field, now)
    }

    /// Verifies the token that was `offered` in `field`, by looking it up if the same issuer, policy and keys have
    /// verified it before and it has not expired; then the connection remembers it. If its key is unknown, the issuer's
    /// keys are read again, if that is permitted, and the token has a second chance: that waits at most
    /// [`REFETCH_WAIT`]. An issuer that must be asked is asked for the `client`, whose source has a share of the
    /// questions. Whether a token that is not known yet is verified at all is for `client` to say.
    ///
    /// # Errors
    /// Why the token does not hold.
    pub(crate) async fn verify_or_refresh(
        &self,
        cache: &RefCell<TokenCache>,
        repeated: &Repeated,
        (field, offered): (&[u8], &Offered<'_>),
        client: impl FnOnce() -> Result<Asker, TokenError>,
        now: SystemTime,
    ) -> Result<Arc<VerifiedToken>, TokenError> {
        let looked = self.lookup(cache, repeated, (field, offered), now)?;
        match looked.held {
            Some(held) => Ok(held),
            // On the heap: it is large and rare, and the request's future would be as large.
            None => Box::pin(self.verify((cache, looked.digest), offered.token, client()?, now)).await,
        }
    }

    fn lookup(
        &self,
        cache: &RefCell<TokenCache>,
        repeated: &Repeated,
        (field, offered): (&[u8], &Offered<'_>),
        now: SystemTime,
    ) -> Result<Looked, TokenError> {
        let circumstances = self.issuer.circumstances();
        let mut cache = cache.borrow_mut();
        let looked = cache.lookup(&self.issuer.policy.name, circumstances, offered.token, now)?;
        if let Some(held) = &looked.held {
            repeated.note(held, || {
                cache.accepted(&looked.digest, circumstances, field, offered)
            });
        }
        Ok(looked)
    }

    /// A token that is not in the cache, which keeps it from now on.
    async fn verify(
        &self,
        (cache, digest): (&RefCell<TokenCache>, Digest),
        token: &str,
        client: Asker,
        now: SystemTime,
    ) -> Result<Arc<VerifiedToken>, TokenError> {
        match &self.issuer.checked_by {
            Checker::Keys(keys) => self.by_keys(keys, (cache, digest), token, now).await,
            Checker::Introspection(asked) => {
                let circumstances = self.issuer.circumstances();
                let verified = asked.ask(token, client, now).await?;
                cache.borrow_mut().keep(digest, circumstances, &verified, now);
                Ok(verified)
            }
        }
    }

    async fn by_keys(
        &self,
        keys: &KeyStore,
        (cache, digest): (&RefCell<TokenCache>, Digest),
        token: &str,
        now: SystemTime,
    ) -> Result<Arc<VerifiedToken>, TokenError> {
        let verify = || {
            // Before it is verified: keys that change meanwhile are others.
            let circumstances = self.issuer.circumstances();
            let verified = self.issuer.verify(token, now)?;
            cache.borrow_mut().keep(digest, circumstances, &verified, now);
            Ok(verified)
        };
        // Before the keys are looked at: a reading that ends meanwhile may bring the one that is missing.
        let mut seen = keys.readings();
        let mut last = verify();
        let again = async {
            // Twice: a reading that is under way may have begun before the key was published.
            for _ in 0..2 {
                let missing = matches!(last, Err(TokenError::UnknownKey | TokenError::KeysUnavailable));
                if !missing || !keys.refetch(seen).await {
                    break;
                }
                seen = keys.readings();
                last = verify();
            }
        };
        // Whoever has waited long enough is told what is known.
        let _ = timeout(REFETCH_WAIT, again).await;
        match last {
            // The key may be in the document that cannot be read: that is not the client's fault.
            // Whose key it was does not matter any more.
            Err(TokenError::UnknownKey) if token::says_expired(&self.issuer.policy, token, now) => {
                Err(TokenError::Expired)
            }
            Err(TokenError::UnknownKey) if !keys.is_current() => Err(TokenError::KeysOutdated),
            last => last,
        }
    }

    /// Whether the verified `token` may be used for the request that was `asked` with `fields`: see
    /// [`ProofChecker`]. `answer` gets the fields that the response must have.
    ///
    /// # Errors
    /// What is wrong with the proof, or that there is none.
    pub(crate) fn prove(
        &self,
        offered: (&Offered<'_>, &VerifiedToken),
        asked: &Asked<'_>,
        fields: &HeaderMap,
        now: impl FnOnce() -> SystemTime,
        answer: &mut HeaderMap,
    ) -> Result<(), ProofError> {
        self.proofs
            .check(&self.issuer.policy, offered, asked, fields, now, answer)
    }
}
