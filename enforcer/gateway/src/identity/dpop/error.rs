//! Why a proof does not hold, and how that is told and counted.

use http::StatusCode;
use thiserror::Error;

/// Why a token may not be used for a request. The texts name no value of the proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProofError {
    /// RFC 9449, section 7.2: a bound token is no bearer token.
    #[error("the token is bound to a key: send it by the scheme DPoP, with a proof")]
    SentAsBearer,
    #[error("the token is bound to no key: send it by the scheme Bearer")]
    NotBound,
    #[error("tokens of this issuer must be bound to a key, and this one is not")]
    BindingRequired,
    #[error("there must be one DPoP field, and there is none")]
    Missing,
    #[error("there must be one DPoP field, and there are several")]
    Several,
    #[error("the proof is no signed JWT in compact form of at most 8192 bytes")]
    Malformed,
    #[error("the header or the claims of the proof are no JSON object with unique names")]
    NotJson,
    #[error("the typ of the proof must be dpop+jwt")]
    Type,
    #[error("the alg of the proof must be an asymmetric algorithm that is supported")]
    Algorithm,
    #[error("the header of the proof has crit, and no extension is supported")]
    Critical,
    #[error("the jwk of the proof must be a public key for its alg")]
    Key,
    #[error("the jwk of the proof holds a private key")]
    PrivateKey,
    #[error("the proof is by another key than the token is bound to")]
    OtherKey,
    #[error("the signature of the proof does not hold")]
    Signature,
    #[error("the claim {0} of the proof is missing or has the wrong form")]
    Claim(&'static str),
    #[error("the htm of the proof is not the request's method")]
    Method,
    #[error("the htu of the proof is not the request's address")]
    Target,
    #[error("the ath of the proof is not that of the token")]
    Token,
    #[error("the proof is too old")]
    TooOld,
    #[error("the proof is from the future")]
    InFuture,
    /// RFC 9449, section 9.
    #[error("the proof must have the nonce of this response's DPoP-Nonce")]
    Nonce,
    #[error("the proof was used before")]
    Replayed,
    /// As many proofs are remembered as may be. Not the client's fault.
    #[error("no more proofs can be accepted just now")]
    Full,
    /// As many proofs of the token's subject are remembered as may be. Others are not touched.
    #[error("so many proofs of the token's subject were used lately that no more can be accepted just now")]
    OverShare,
    /// The system has no randomness. Not the client's fault.
    #[error("proofs cannot be checked")]
    Unavailable,
}

impl ProofError {
    /// The status to answer with.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Full | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::OverShare => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::UNAUTHORIZED,
        }
    }

    /// Whether the proof was forged, or made for something else. Clocks that differ, a token that is sent by the other
    /// scheme, an algorithm that the policy does not admit and a missing nonce are refused, and say nothing about
    /// whoever sent them.
    #[must_use]
    pub fn is_forged(self) -> bool {
        self.is_attempt()
            && !matches!(
                self,
                Self::SentAsBearer
                    | Self::NotBound
                    | Self::BindingRequired
                    | Self::Missing
                    | Self::Algorithm
                    | Self::Critical
                    | Self::TooOld
                    | Self::InFuture
            )
    }

    /// Whether this is a failed authentication, and not just how clients learn a nonce.
    #[must_use]
    pub fn is_attempt(self) -> bool {
        self.status() == StatusCode::UNAUTHORIZED && self != Self::Nonce
    }

    /// The `error` of a challenge (RFC 9449, sections 7.1 and 9).
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::SentAsBearer | Self::NotBound | Self::BindingRequired => "invalid_token",
            Self::Nonce => "use_dpop_nonce",
            _ => "invalid_dpop_proof",
        }
    }

    /// Its name in metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::SentAsBearer => "sent_as_bearer",
            Self::NotBound => "not_bound",
            Self::BindingRequired => "binding_required",
            Self::Missing => "missing",
            Self::Several => "several",
            Self::Malformed | Self::NotJson => "malformed",
            Self::Type | Self::Algorithm | Self::Critical => "header",
            Self::Key | Self::PrivateKey => "key",
            Self::OtherKey => "other_key",
            Self::Signature => "signature",
            Self::Claim(_) => "claim",
            Self::Method | Self::Target => "other_request",
            Self::Token => "other_token",
            Self::TooOld | Self::InFuture => "time",
            Self::Nonce => "nonce",
            Self::Replayed => "replayed",
            Self::Full => "full",
            Self::OverShare => "over_share",
            Self::Unavailable => "unavailable",
        }
    }
}
