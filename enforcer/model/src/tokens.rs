//! How an issuer's tokens are checked, beside their signature and claims.

use std::{num::NonZeroU64, path::PathBuf, sync::Arc, time::Duration};

use crate::{Jwks, Pattern, Rate};

/// How it is found out whether a token holds.
#[derive(Clone, Debug)]
pub enum CheckedBy {
    /// It is a JWT: by the issuer's keys.
    Keys(Jwks),
    /// It may be anything: the issuer is asked.
    Introspection(Introspection),
}

/// What tokens must have beside `iss`, `aud`, `exp` and `sub`, which every token must.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Nothing.
    #[default]
    Common,
    /// `client_id`, `iat` and `jti` (RFC 9068, section 2.2).
    Rfc9068,
}

/// Where and how an issuer is asked about tokens (RFC 7662).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introspection {
    /// `https` anywhere; `http` only on loopback.
    pub url: http::Uri,
    /// PEM file of the authorities that are trusted for it. `None`: the system's.
    pub ca: Option<PathBuf>,
    /// As what the gateway is registered with the issuer.
    pub client_id: Arc<str>,
    /// The file of its secret.
    pub secret_file: PathBuf,
    /// How long an answer that a token holds may be used; never beyond its `exp`.
    pub cache: Duration,
    /// How long one that it does not.
    pub negative_cache: Duration,
    /// For the whole of one question.
    pub timeout: Duration,
    /// How many tokens that are not known yet a source may have asked about; wider prefixes some times as many.
    pub rate: Rate,
    /// What the issuer's tokens look like: others are not asked about. `None`: they have [`Introspection::SHORTEST`]
    /// characters at least.
    pub pattern: Option<Pattern>,
}

impl Introspection {
    /// A token of fewer characters can be guessed (RFC 6749, section 10.10).
    pub const SHORTEST: usize = 16;

    /// Whether the issuer's tokens look like `token`.
    #[must_use]
    pub fn admits(&self, token: &str) -> bool {
        match &self.pattern {
            Some(pattern) => pattern.matches(token.as_bytes()),
            None => token.len() >= Self::SHORTEST,
        }
    }

    /// How many tokens may be asked about at once: those of ten seconds, and no fewer than the rate's amount.
    #[must_use]
    pub fn burst(&self) -> NonZeroU64 {
        let (amount, period) = (self.rate.amount(), self.rate.period().as_millis().max(1));
        let in_ten_seconds = u128::from(amount.get()).saturating_mul(10_000) / period;
        let in_ten_seconds = u64::try_from(in_ten_seconds).ok().and_then(NonZeroU64::new);
        in_ten_seconds.map_or(amount, |burst| burst.max(amount))
    }
}

/// Proofs of possession (DPoP, RFC 9449). A token that is bound to a key (`cnf.jkt`) needs its proof
/// whatever this says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dpop {
    /// Whether tokens that are bound to no key are refused.
    pub required: bool,
    /// Whether proofs must have a nonce of the gateway (RFC 9449, section 8).
    pub nonce: bool,
    /// How long after its `iat` a proof may be used, once.
    pub max_age: Duration,
}

impl Default for Dpop {
    fn default() -> Self {
        Self {
            required: false,
            nonce: false,
            max_age: Duration::from_secs(60),
        }
    }
}
