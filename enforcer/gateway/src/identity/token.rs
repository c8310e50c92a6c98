//! Access tokens: JWTs by RFC 9068, verified as RFC 8725 asks.
//!
//! Nothing in a token is believed before its signature holds, and a key is chosen by the policy's
//! issuer, never by what the token says about itself beyond the `kid`.

use std::{sync::Arc, time::SystemTime};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, crypto, errors::ErrorKind};
use serde_json::{Map, Value};
use thiserror::Error;

use super::{
    claims, json,
    jwks::{Choice, KeySet},
    reason::Reason,
    scope::Scopes,
};
use enforcer_model::{Issuer, Name};

/// The longest token, in bytes.
pub const MAX_TOKEN: usize = 8 * 1024;

/// A token whose signature and claims hold.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifiedToken {
    /// The policy's name of the issuer.
    pub issuer: Name,
    /// `sub`. May hold any character: escape it before writing it anywhere.
    pub subject: Arc<str>,
    /// `client_id` (RFC 9068), else `azp`.
    pub client_id: Option<Arc<str>>,
    /// `scope`, else `scp`.
    pub scopes: Scopes,
    /// `exp`: afterwards the token holds no more, but for the leeway. Of an introspected token: until when
    /// it need not be introspected again, which is no later.
    pub expires: SystemTime,
    /// `exp` with the leeway: what goes on without being asked again ends then. `None`: the token has no `exp`,
    /// and was introspected.
    pub holds_until: Option<SystemTime>,
    /// `jti`.
    pub id: Option<Arc<str>>,
    /// To what the token is bound (`cnf`, RFC 7800): whoever presents it must prove that.
    pub binding: Binding,
    /// What the token says that its client is entitled to, where the issuer's policy says which claim that is.
    pub tier: Option<Arc<str>>,
    /// Those that rules look at.
    pub claims: Map<String, Value>,
}

/// What the presenter of a token must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// The token itself.
    Bearer,
    /// The client certificate with this SHA-256 (RFC 8705, section 3).
    Certificate([u8; 32]),
    /// The key with this SHA-256 thumbprint (RFC 9449, section 6.1).
    Key([u8; 32]),
    /// A proof that this gateway cannot check, or several: such a token is no bearer token.
    Unsupported,
}

/// Why a token does not hold. The texts name no value of the token and no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    #[error("the token is longer than 8192 bytes")]
    TooLong,
    #[error("the token is no signed JWT in compact form")]
    Malformed,
    #[error("the header or the claims are no JSON object with unique names")]
    NotJson,
    #[error("the header lacks a name that it must have, or has one of the wrong type")]
    Header,
    #[error("the header has crit, and no extension is supported")]
    Critical,
    #[error("the signature algorithm is not accepted from this issuer")]
    Algorithm,
    /// `none`, or a secret that both sides have.
    #[error("the signature algorithm is none that an issuer signs with")]
    Unsigned,
    #[error("the typ of the header is not accepted from this issuer")]
    Type,
    /// The policy has no issuer of that name.
    #[error("the issuer is not configured")]
    UnknownIssuer,
    /// The issuer's keys were never read. Not the client's fault.
    #[error("the keys of the issuer are not available yet")]
    KeysUnavailable,
    /// A newer key set may have it: see [`super::verifier::Verifier::verify_or_refresh`].
    #[error("the issuer has no key with this kid")]
    UnknownKey,
    /// As [`Self::UnknownKey`], but newer keys could not be read. Not the client's fault.
    #[error("the issuer's newest keys cannot be read, and no key that was read has this kid")]
    KeysOutdated,
    #[error("the key with this kid is for another algorithm")]
    OtherAlgorithm,
    #[error("several keys of the issuer would fit")]
    AmbiguousKey,
    /// The issuer is not asked about it.
    #[error("the token has not the form of this issuer's tokens")]
    Shape,
    /// RFC 7662, section 2.2.
    #[error("the issuer says that the token is not active")]
    Inactive,
    /// The issuer cannot be asked about the token. Not the client's fault.
    #[error("the issuer of the token cannot be asked about it")]
    NotIntrospected,
    /// As many questions to the issuer are under way as may be. Not the client's fault.
    #[error("the issuer is being asked about too many tokens")]
    TooManyQuestions,
    /// As many questions to the issuer are under way for the client's address as may be. Others are not touched.
    #[error("the issuer is being asked about too many tokens from this address")]
    OverShare,
    /// So many credentials from the client's address were refused lately that no more are looked at. Others are not
    /// touched.
    #[error("too many credentials from this address were refused")]
    TooManyAttempts,
    #[error("the signature does not hold")]
    Signature,
    #[error("the claim {0} is missing")]
    Missing(&'static str),
    #[error("the claim {0} has the wrong form")]
    Invalid(&'static str),
    #[error("the token is from another issuer")]
    Issuer,
    #[error("the token is for another audience")]
    Audience,
    #[error("the token is expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the token was issued in the future")]
    IssuedInFuture,
}

impl TokenError {
    /// What metrics and the audit log call it.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::TooLong
            | Self::Malformed
            | Self::NotJson
            | Self::Header
            | Self::Critical
            | Self::Shape
            | Self::Missing(_)
            | Self::Invalid(_) => Reason::TokenUnreadable,
            Self::Algorithm | Self::Unsigned | Self::OtherAlgorithm => Reason::TokenAlgorithm,
            Self::Type => Reason::TokenType,
            Self::UnknownIssuer | Self::Issuer => Reason::TokenIssuer,
            Self::UnknownKey | Self::AmbiguousKey => Reason::TokenUnknownKey,
            Self::Signature => Reason::TokenSignature,
            Self::Audience => Reason::TokenAudience,
            Self::Expired => Reason::TokenExpired,
            Self::NotYetValid | Self::IssuedInFuture => Reason::TokenNotYetValid,
            Self::Inactive => Reason::TokenInactive,
            Self::TooManyAttempts => Reason::TooManyAttempts,
            Self::KeysUnavailable
            | Self::KeysOutdated
            | Self::NotIntrospected
            | Self::TooManyQuestions
            | Self::OverShare => Reason::IssuerUnavailable,
        }
    }

    /// Whether the client is to blame, and another token would help.
    #[must_use]
    pub fn is_clients(self) -> bool {
        !matches!(
            self,
            Self::KeysUnavailable
                | Self::KeysOutdated
                | Self::UnknownIssuer
                | Self::NotIntrospected
                | Self::TooManyQuestions
                | Self::OverShare
                | Self::TooManyAttempts
        )
    }

    /// Whether the token was forged: it names a key of the issuer that has not signed it, or is not signed at all. All others
    /// are refused and say nothing about whoever sent them: one that is expired, for another audience or of a form that the
    /// policy does not admit, an opaque one, one of a key that the issuer has withdrawn or that is too new to be known, and
    /// one that is not active, of which nobody can tell whether its issuer ever made it.
    #[must_use]
    pub fn is_forged(self) -> bool {
        matches!(self, Self::Unsigned | Self::Signature)
    }

    /// Whether the client has to wait, and others do not.
    #[must_use]
    pub fn is_over_share(self) -> bool {
        matches!(self, Self::OverShare | Self::TooManyAttempts)
    }
}

/// What counts of a JOSE header.
struct Header {
    algorithm: Algorithm,
    key_id: Option<String>,
}

/// Verifies `token` with `keys` for `issuer` at `now`.
///
/// # Errors
/// The first thing about the token that does not hold.
pub fn verify(
    issuer: &Issuer,
    keys: &KeySet,
    token: &str,
    now: SystemTime,
) -> Result<VerifiedToken, TokenError> {
    if token.len() > MAX_TOKEN {
        return Err(TokenError::TooLong);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let (header, payload) = message.split_once('.').ok_or(TokenError::Malformed)?;
    if payload.contains('.') || signature.is_empty() {
        return Err(TokenError::Malformed);
    }
    let header = Header::read(&part(header)?, issuer)?;
    if keys.is_empty() {
        return Err(TokenError::KeysUnavailable);
    }
    let key = match keys.choose(header.key_id.as_deref(), header.algorithm) {
        Choice::Key(key) => key,
        Choice::Unknown => return Err(TokenError::UnknownKey),
        Choice::OtherAlgorithm => return Err(TokenError::OtherAlgorithm),
        Choice::Ambiguous => return Err(TokenError::AmbiguousKey),
    };
    match crypto::verify(signature, message.as_bytes(), &key.decoding, key.algorithm) {
        Ok(true) => {}
        Err(error) if matches!(error.kind(), ErrorKind::Base64(_)) => return Err(TokenError::Malformed),
        Ok(false) | Err(_) => return Err(TokenError::Signature),
    }
    claims::check(&part(payload)?, issuer, now)
}

/// Whether `token` says itself that it has expired. Whoever has signed it, it would not be let in.
pub(super) fn says_expired(issuer: &Issuer, token: &str, now: SystemTime) -> bool {
    let payload = token.split('.').nth(1).unwrap_or_default();
    let claims = part(payload).unwrap_or_default();
    matches!(
        claims::expiry(&claims, issuer.leeway, now),
        Err(TokenError::Expired)
    )
}

/// Base64url without padding and with unused bits zero (RFC 7515, section 2), then JSON.
fn part(encoded: &str) -> Result<Map<String, Value>, TokenError> {
    let text = URL_SAFE_NO_PAD
        .decode(encoded)
        .map_err(|_| TokenError::Malformed)?;
    json::object(&text).map_err(|_| TokenError::NotJson)
}

impl Header {
    fn read(header: &Map<String, Value>, issuer: &Issuer) -> Result<Self, TokenError> {
        // RFC 7515, section 4.1.11: an extension that is not understood must be refused.
        if header.contains_key("crit") {
            return Err(TokenError::Critical);
        }
        let text = |name| match header.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(TokenError::Header),
        };
        let algorithm = text("alg")?.ok_or(TokenError::Header)?;
        if algorithm.eq_ignore_ascii_case("none") || algorithm.starts_with("HS") {
            return Err(TokenError::Unsigned);
        }
        let algorithm = algorithm.parse().map_err(|_| TokenError::Algorithm)?;
        if !issuer.algorithms.contains(&algorithm) {
            return Err(TokenError::Algorithm);
        }
        let media_type = text("typ")?.ok_or(TokenError::Type)?;
        if !issuer
            .types
            .iter()
            .any(|accepted| same_type(media_type, accepted))
        {
            return Err(TokenError::Type);
        }
        Ok(Self {
            algorithm,
            key_id: text("kid")?.map(str::to_owned),
        })
    }
}

/// RFC 7515, section 4.1.9: media types, where `application/` may be left out.
pub(super) fn same_type(given: &str, accepted: &str) -> bool {
    const PREFIX: &str = "application/";
    let short = match given.get(..PREFIX.len()) {
        Some(start) if start.eq_ignore_ascii_case(PREFIX) => &given[PREFIX.len()..],
        _ => given,
    };
    short.eq_ignore_ascii_case(accepted)
}
