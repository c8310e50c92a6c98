//! Proofs of possession (DPoP, RFC 9449): a token that is bound to a key holds only together with a JWT
//! that this key has signed for the one request.
//!
//! What was proved once is remembered until it is too old to be proved again, so that a proof that was
//! read on its way is of no use. All workers share that memory, which only requests with proofs touch.

mod error;
mod nonce;
mod proof;
mod replay;
mod target;
mod thumbprint;

use std::time::{Duration, SystemTime};

use aws_lc_rs::{hmac, rand::SystemRandom};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

pub use error::ProofError;

use self::{nonce::Freshness, proof::Wanted, replay::Replays};
use super::{
    bearer::{Offered, Scheme},
    token::{Binding, VerifiedToken},
};
use enforcer_http_rules::host::Host;
use enforcer_model::Issuer;

/// The field that has the proof (RFC 9449, section 4.1).
pub const DPOP: HeaderName = HeaderName::from_static("dpop");
/// The field by which clients are given a nonce (RFC 9449, section 8.1).
pub const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");
/// The algorithms that proofs may be signed by, as challenges name them.
pub const ALGORITHMS: &str = "ES256 ES384 EdDSA RS256 RS384 RS512 PS256 PS384 PS512";

/// The request that a proof must be for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a Method,
    /// Whether the client's connection is TLS, and so the scheme `https`.
    pub(crate) tls: bool,
    pub(crate) host: &'a Host,
    /// In its one form: see [`enforcer_http_rules::target`].
    pub(crate) path: &'a str,
}

/// Checks proofs, each of which it accepts once.
#[derive(Debug)]
pub struct ProofChecker {
    /// Of this process alone. `None`: the system had no randomness, and no proof is accepted.
    secret: Option<hmac::Key>,
    seen: Replays,
}

impl Default for ProofChecker {
    fn default() -> Self {
        Self {
            secret: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok(),
            seen: Replays::default(),
        }
    }
}

impl ProofChecker {
    /// Whether the verified `token` may be used for the request that was `asked` with `fields`.
    /// `answer` are fields of the response: it gets a nonce where the client needs one. `now` is asked only where a
    /// proof is checked.
    ///
    /// # Errors
    /// What about the proof, or its absence, does not hold.
    pub(crate) fn check(
        &self,
        issuer: &Issuer,
        (offered, token): (&Offered<'_>, &VerifiedToken),
        asked: &Asked<'_>,
        fields: &HeaderMap,
        now: impl FnOnce() -> SystemTime,
        answer: &mut HeaderMap,
    ) -> Result<(), ProofError> {
        let thumbprint = match (token.binding, offered.scheme) {
            (Binding::Key(thumbprint), Scheme::Dpop) => thumbprint,
            (Binding::Key(_), Scheme::Bearer) => return Err(ProofError::SentAsBearer),
            (_, Scheme::Dpop) => return Err(ProofError::NotBound),
            (_, Scheme::Bearer) if issuer.dpop.required => return Err(ProofError::BindingRequired),
            (_, Scheme::Bearer) => return Ok(()),
        };
        let secret = self.secret.as_ref().ok_or(ProofError::Unavailable)?;
        let now = now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        let nonces = issuer.dpop.nonce.then_some((secret, issuer.name.as_str()));
        let checked = proof::verify(
            proof::only(fields)?,
            &Wanted {
                token: offered.token,
                thumbprint: &thumbprint,
                asked,
                max_age: issuer.dpop.max_age,
                leeway: issuer.leeway,
                now,
                nonces,
            },
        );
        let wants_nonce = match &checked {
            Err(error) => *error == ProofError::Nonce,
            Ok(proof) => proof.freshness == Some(Freshness::Previous),
        };
        if let (true, Some((secret, name))) = (wants_nonce, nonces)
            && let Ok(value) = HeaderValue::try_from(nonce::current(secret, name, now))
        {
            answer.insert(DPOP_NONCE, value);
        }
        let proof = checked?;
        let digest = replay::digest(secret, &thumbprint, &proof.id);
        let holder = self.seen.holder(&token.issuer, &token.subject);
        self.seen.enter(digest, holder, proof.ends, now)
    }
}
