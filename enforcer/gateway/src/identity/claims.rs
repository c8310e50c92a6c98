//! What a token claims (RFC 7519, section 4.1; RFC 9068, section 2.2), once its signature holds.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::{
    kept,
    scope::Scopes,
    token::{Binding, TokenError, VerifiedToken},
};
use enforcer_model::{Issuer, Name, Profile};

/// The last second of the year 9999, in seconds since the epoch.
const LAST_DATE: u64 = 253_402_300_799;

/// Checks the claims for `issuer` at `now`.
///
/// # Errors
/// The first claim that is missing, malformed or not as it must be.
pub(super) fn check(
    claims: &Map<String, Value>,
    issuer: &Issuer,
    now: SystemTime,
) -> Result<VerifiedToken, TokenError> {
    if text(claims, "iss")?.ok_or(TokenError::Missing("iss"))? != &*issuer.issuer {
        return Err(TokenError::Issuer);
    }
    check_audience(claims, issuer)?;
    let expires = check_times(claims, issuer.leeway, now)?;
    let subject = text(claims, "sub")?.ok_or(TokenError::Missing("sub"))?;
    if subject.is_empty() {
        return Err(TokenError::Invalid("sub"));
    }
    if issuer.profile == Profile::Rfc9068 {
        check_profile(claims)?;
    }
    let client_id = match text(claims, "client_id")? {
        None => text(claims, "azp")?,
        given => given,
    };
    Ok(VerifiedToken {
        issuer: issuer.name.clone(),
        subject: subject.into(),
        client_id: client_id.map(Arc::from),
        scopes: Scopes::of_claims(claims)?,
        expires,
        holds_until: Some(expires + issuer.leeway),
        id: text(claims, "jti")?.map(Arc::from),
        binding: binding(claims)?,
        tier: tier(claims, issuer),
        claims: kept::keep(claims, &issuer.kept),
    })
}

/// What RFC 9068, section 2.2, demands beyond what every token must have.
fn check_profile(claims: &Map<String, Value>) -> Result<(), TokenError> {
    date(claims, "iat")?.ok_or(TokenError::Missing("iat"))?;
    for name in ["client_id", "jti"] {
        if text(claims, name)?.ok_or(TokenError::Missing(name))?.is_empty() {
            return Err(TokenError::Invalid(name));
        }
    }
    Ok(())
}

/// What is no text, or longer than a tier's name can be, is no tier.
fn tier(claims: &Map<String, Value>, issuer: &Issuer) -> Option<Arc<str>> {
    let tier = issuer.tier.as_ref()?.find(claims)?.as_str()?;
    (tier.len() <= Name::MAX).then(|| tier.into())
}

fn text<'a>(claims: &'a Map<String, Value>, name: &'static str) -> Result<Option<&'a str>, TokenError> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(TokenError::Invalid(name)),
    }
}

/// RFC 7519, section 4.1.3: one string, or an array of strings.
fn check_audience(claims: &Map<String, Value>, issuer: &Issuer) -> Result<(), TokenError> {
    let accepted = |audience: &str| issuer.audiences.iter().any(|ours| **ours == *audience);
    let ours = match claims.get("aud") {
        None => return Err(TokenError::Missing("aud")),
        Some(Value::String(audience)) => accepted(audience),
        Some(Value::Array(audiences)) => {
            if !audiences.iter().all(Value::is_string) {
                return Err(TokenError::Invalid("aud"));
            }
            audiences.iter().filter_map(Value::as_str).any(accepted)
        }
        Some(_) => return Err(TokenError::Invalid("aud")),
    };
    ours.then_some(()).ok_or(TokenError::Audience)
}

/// The time of `exp`, if `exp`, `nbf` and `iat` allow `now`.
fn check_times(
    claims: &Map<String, Value>,
    leeway: Duration,
    now: SystemTime,
) -> Result<SystemTime, TokenError> {
    let expires = expiry(claims, leeway, now)?;
    let now = since_epoch(now);
    let begins = |name| Ok(date(claims, name)?.map(|date| date.ceil_seconds()));
    if begins("nbf")?.is_some_and(|begin| begin > now + leeway) {
        return Err(TokenError::NotYetValid);
    }
    if begins("iat")?.is_some_and(|begin| begin > now + leeway) {
        return Err(TokenError::IssuedInFuture);
    }
    Ok(SystemTime::UNIX_EPOCH + expires)
}

/// The time of `exp` since the epoch, if that with `leeway` is not over.
pub(super) fn expiry(
    claims: &Map<String, Value>,
    leeway: Duration,
    now: SystemTime,
) -> Result<Duration, TokenError> {
    let expires = date(claims, "exp")?
        .ok_or(TokenError::Missing("exp"))?
        .floor_seconds();
    if since_epoch(now) >= expires + leeway {
        return Err(TokenError::Expired);
    }
    Ok(expires)
}

fn since_epoch(now: SystemTime) -> Duration {
    now.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
}

/// A NumericDate (RFC 7519, section 2): seconds, which may have a fraction.
pub(super) struct Date(f64);

impl Date {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "made only from 0 to LAST_DATE"
    )]
    pub(super) fn floor_seconds(&self) -> Duration {
        Duration::from_secs(self.0.floor() as u64)
    }

    pub(super) fn ceil_seconds(&self) -> Duration {
        Self(self.0.ceil()).floor_seconds()
    }
}

/// The claim of that name.
pub(super) fn date(claims: &Map<String, Value>, name: &'static str) -> Result<Option<Date>, TokenError> {
    #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
    const LAST: f64 = LAST_DATE as f64;
    match claims.get(name) {
        None => Ok(None),
        Some(value) => value
            .as_f64()
            .filter(|seconds| (0.0..=LAST).contains(seconds))
            .map(|seconds| Some(Date(seconds)))
            .ok_or(TokenError::Invalid(name)),
    }
}

/// `cnf`: a confirmation that cannot be checked must not be ignored (RFC 7800, section 3.1).
fn binding(claims: &Map<String, Value>) -> Result<Binding, TokenError> {
    let Some(confirmation) = claims.get("cnf") else {
        return Ok(Binding::Bearer);
    };
    let members = confirmation.as_object().ok_or(TokenError::Invalid("cnf"))?;
    let mut members = members.iter();
    let (Some((method, value)), None) = (members.next(), members.next()) else {
        return Ok(Binding::Unsupported);
    };
    let bound_to: fn([u8; 32]) -> Binding = match method.as_str() {
        "x5t#S256" => Binding::Certificate,
        "jkt" => Binding::Key,
        _ => return Ok(Binding::Unsupported),
    };
    value
        .as_str()
        .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
        .and_then(|bytes| bytes.try_into().ok())
        .map(bound_to)
        .ok_or(TokenError::Invalid("cnf"))
}
