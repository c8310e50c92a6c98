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

use tokio::runtime::Handle;

use super::{
    bearer::{Offered, Scheme},
    cache::TokenCache,
    dpop::ProofChecker,
    introspection::{Asker, Introspector},
    keystore::{KeyState, KeyStore},
    repeated::Repeated,
    token::{self, TokenError, VerifiedToken},
    trusted::Trusted,
};
use enforcer_model::{CheckedBy, Issuer, Name};

/// Verifies tokens of a generation's issuers.
#[derive(Debug, Default)]
pub struct Verifier {
    issuers: HashMap<Name, TrustedIssuer>,
    /// Outlives generations, so that a new policy forgets no proof that was used.
    proofs: Arc<ProofChecker>,
}

#[derive(Debug)]
pub(super) struct TrustedIssuer {
    pub(super) policy: Arc<Issuer>,
    /// Tells this policy of the issuer from every other that the process has had.
    epoch: u64,
    pub(super) checked_by: Checker,
}

/// What finds out whether a token of an issuer holds.
#[derive(Clone, Debug)]
pub(super) enum Checker {
    Keys(Arc<KeyStore>),
    Introspection(Arc<Introspector>),
}

/// Under which circumstances a token was verified: under others it has to be again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Circumstances {
    pub(super) epoch: u64,
    /// Of the keys, if it is verified by such.
    pub(super) generation: Option<u64>,
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
        self.of(issuer)?.issuer.verify(token, now)
    }

    /// As `Trusted::verify_or_refresh` does, for a connection's first request.
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
        let offered = Offered {
            scheme: Scheme::Bearer,
            token,
        };
        self.of(issuer)?
            .verify_or_refresh(
                cache,
                &Repeated::default(),
                (token.as_bytes(), &offered),
                || Ok(Asker { source, known: false }),
                now,
            )
            .await
    }

    /// What the policy trusts of `issuer`.
    ///
    /// # Errors
    /// There is no such issuer.
    pub(crate) fn of(&self, issuer: &Name) -> Result<Trusted<'_>, TokenError> {
        let issuer = self.issuers.get(issuer).ok_or(TokenError::UnknownIssuer)?;
        let proofs = &self.proofs;
        Ok(Trusted { issuer, proofs })
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
}

impl TrustedIssuer {
    fn keys(&self) -> Option<&Arc<KeyStore>> {
        match &self.checked_by {
            Checker::Keys(keys) => Some(keys),
            Checker::Introspection(_) => None,
        }
    }

    /// Under which circumstances a token would be verified now.
    pub(super) fn circumstances(&self) -> Circumstances {
        Circumstances {
            epoch: self.epoch,
            generation: self.keys().map(|keys| keys.keys().generation()),
        }
    }

    /// Verifies `token` with the keys that are there, if there are any.
    pub(super) fn verify(&self, token: &str, now: SystemTime) -> Result<Arc<VerifiedToken>, TokenError> {
        let keys = self.keys().ok_or(TokenError::NotIntrospected)?;
        token::verify(&self.policy, &keys.keys(), token, now).map(Arc::new)
    }
}

/// Whether both policies say the same of every token, given the same keys, and keep the same of it.
fn judges_alike(one: &Issuer, other: &Issuer) -> bool {
    one.issuer == other.issuer
        && one.audiences == other.audiences
        && one.types == other.types
        && one.profile == other.profile
        && one.leeway == other.leeway
        && one.tier == other.tier
        && one.kept == other.kept
}

fn new_epoch() -> u64 {
    static EPOCHS: AtomicU64 = AtomicU64::new(0);
    EPOCHS.fetch_add(1, Ordering::Relaxed)
}
