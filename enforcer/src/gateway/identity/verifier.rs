//! All issuers that the policy trusts, with their keys.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use http::HeaderMap;
use tokio::{runtime::Handle, time::timeout};

use super::{
    bearer::Offered,
    cache::TokenCache,
    dpop::{Asked, ProofChecker, ProofError},
    introspection::Introspector,
    keystore::{KeyState, KeyStore, REFETCH_WAIT},
    token::{self, TokenError, VerifiedToken},
};
use crate::policy::model::{CheckedBy, Issuer, Name};

/// Verifies tokens of a generation's issuers.
#[derive(Debug, Default)]
pub struct Verifier {
    issuers: HashMap<Name, TrustedIssuer>,
    /// Outlives generations, so that a new policy forgets no proof that was used.
    proofs: Arc<ProofChecker>,
}

#[derive(Debug)]
struct TrustedIssuer {
    policy: Arc<Issuer>,
    /// Tells this policy of the issuer from every other that the process has had.
    epoch: u64,
    checked_by: Checker,
}

/// What finds out whether a token of an issuer holds.
#[derive(Clone, Debug)]
enum Checker {
    Keys(Arc<KeyStore>),
    Introspection(Arc<Introspector>),
}

/// Under which circumstances a token was verified: under others it has to be again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Circumstances {
    epoch: u64,
    /// Of the keys, if it is verified by such.
    generation: Option<u64>,
}

/// How an issuer's keys are, for metrics and status.
#[derive(Clone, Debug)]
pub struct IssuerStatus {
    /// The policy's name of the issuer.
    pub name: Name,
    /// How many keys are in use.
    pub keys: usize,
    /// How many keys of the document are not.
    pub unused_keys: usize,
    /// How the reading goes.
    pub state: KeyState,
}

impl Verifier {
    /// Trusts `issuers`; their keys are read on `runtime`. What `previous` has of an issuer that is
    /// still the same stays, so that a new policy costs no reading and no cached token.
    #[must_use]
    pub fn new(issuers: &[Arc<Issuer>], previous: Option<&Self>, runtime: &Handle) -> Self {
        let trust = |policy: &Arc<Issuer>| {
            let before = previous.and_then(|verifier| verifier.issuers.get(&policy.name));
            let alike = before.filter(|before| judges_alike(&before.policy, policy));
            let (checked_by, is_new) = match &policy.checked_by {
                CheckedBy::Keys(jwks) => {
                    let keys = before
                        .and_then(TrustedIssuer::keys)
                        .filter(|keys| keys.serves(policy, jwks));
                    let start = || Arc::new(KeyStore::start(policy, jwks, runtime));
                    (Checker::Keys(keys.map_or_else(start, Arc::clone)), keys.is_none())
                }
                CheckedBy::Introspection(settings) => match alike.map(|alike| &alike.checked_by) {
                    Some(Checker::Introspection(asked)) if asked.asks(settings) => {
                        (Checker::Introspection(Arc::clone(asked)), false)
                    }
                    _ => {
                        let asked = Introspector::new(policy, settings, runtime);
                        (Checker::Introspection(Arc::new(asked)), true)
                    }
                },
            };
            TrustedIssuer {
                policy: Arc::clone(policy),
                epoch: alike
                    .filter(|_| !is_new)
                    .map_or_else(new_epoch, |alike| alike.epoch),
                checked_by,
            }
        };
        Self {
            issuers: issuers
                .iter()
                .map(|policy| (policy.name.clone(), trust(policy)))
                .collect(),
            proofs: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.proofs)),
        }
    }

    /// Verifies `token` with the keys that are there. Costs a signature: see [`TokenCache`]. Nothing holds
    /// of an issuer that must be asked, which [`Self::verify_or_refresh`] does.
    ///
    /// # Errors
    /// Why the token does not hold.
    pub fn verify(
        &self,
        issuer: &Name,
        token: &str,
        now: SystemTime,
    ) -> Result<Arc<VerifiedToken>, TokenError> {
        let issuer = self.trusted(issuer)?;
        let keys = issuer.keys().ok_or(TokenError::NotIntrospected)?;
        token::verify(&issuer.policy, &keys.keys(), token, now).map(Arc::new)
    }

    /// As [`TokenCache::verify`]; but if the key is unknown, the issuer's keys are read again, if
    /// that is permitted, and the token has a second chance. Waits at most
    /// [`super::keystore::REFETCH_WAIT`]. An issuer that must be asked is asked for the client at `source`, which
    /// has a share of the questions.
    ///
    /// # Errors
    /// Why the token does not hold.
    pub async fn verify_or_refresh(
        &self,
        cache: &RefCell<TokenCache>,
        issuer: &Name,
        token: &str,
        source: IpAddr,
        now: SystemTime,
    ) -> Result<Arc<VerifiedToken>, TokenError> {
        let keys = match &self.trusted(issuer)?.checked_by {
            Checker::Keys(keys) => keys,
            Checker::Introspection(asked) => {
                if let Some(held) = cache.borrow_mut().lookup(self, issuer, token, now)? {
                    return Ok(held);
                }
                let circumstances = self.circumstances(issuer)?;
                let verified = asked.ask(token, source, now).await?;
                cache
                    .borrow_mut()
                    .keep(issuer, token, circumstances, &verified, now);
                return Ok(verified);
            }
        };
        let verify = || cache.borrow_mut().verify(self, issuer, token, now);
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
            Err(TokenError::UnknownKey) if !keys.is_current() => Err(TokenError::KeysOutdated),
            last => last,
        }
    }

    /// Whether the verified `token` may be used for the request that was `asked` with `fields`: see
    /// [`ProofChecker`]. `answer` gets the fields that the response must have.
    ///
    /// # Errors
    /// What is wrong with the proof, or that there is none.
    pub(in crate::gateway) fn prove(
        &self,
        offered: (&Offered<'_>, &VerifiedToken),
        asked: &Asked<'_>,
        fields: &HeaderMap,
        now: SystemTime,
        answer: &mut HeaderMap,
    ) -> Result<(), ProofError> {
        let issuer = self
            .trusted(&offered.1.issuer)
            .map_err(|_| ProofError::Unavailable)?;
        self.proofs
            .check(&issuer.policy, offered, asked, fields, now, answer)
    }

    /// Whether tokens of the issuer must be bound to a key.
    pub(in crate::gateway) fn wants_proofs(&self, issuer: &Name) -> bool {
        self.issuers
            .get(issuer)
            .is_some_and(|issuer| issuer.policy.dpop.required)
    }

    /// Waits until the keys of every issuer were read once, or could not be.
    pub async fn first_attempts(&self) {
        for keys in self.issuers.values().filter_map(TrustedIssuer::keys) {
            keys.first_attempt().await;
        }
    }

    /// How the keys are, in order of name. Issuers that are asked have none.
    #[must_use]
    pub fn status(&self) -> Vec<IssuerStatus> {
        let mut status: Vec<_> = self
            .issuers
            .iter()
            .filter_map(|(name, issuer)| {
                let store = issuer.keys()?;
                let keys = store.keys();
                Some(IssuerStatus {
                    name: name.clone(),
                    keys: keys.len(),
                    unused_keys: keys.unused().len(),
                    state: store.state(),
                })
            })
            .collect();
        status.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        status
    }

    /// Under which circumstances a token of `issuer` would be verified now.
    pub(super) fn circumstances(&self, issuer: &Name) -> Result<Circumstances, TokenError> {
        let issuer = self.trusted(issuer)?;
        Ok(Circumstances {
            epoch: issuer.epoch,
            generation: issuer.keys().map(|keys| keys.keys().generation()),
        })
    }

    fn trusted(&self, issuer: &Name) -> Result<&TrustedIssuer, TokenError> {
        self.issuers.get(issuer).ok_or(TokenError::UnknownIssuer)
    }
}

impl TrustedIssuer {
    fn keys(&self) -> Option<&Arc<KeyStore>> {
        match &self.checked_by {
            Checker::Keys(keys) => Some(keys),
            Checker::Introspection(_) => None,
        }
    }
}

/// Whether both policies say the same of every token, given the same keys, and keep the same of it.
fn judges_alike(one: &Issuer, other: &Issuer) -> bool {
    one.issuer == other.issuer
        && one.audiences == other.audiences
        && one.types == other.types
        && one.leeway == other.leeway
        && one.tier == other.tier
        && one.kept == other.kept
}

fn new_epoch() -> u64 {
    static EPOCHS: AtomicU64 = AtomicU64::new(0);
    EPOCHS.fetch_add(1, Ordering::Relaxed)
}
