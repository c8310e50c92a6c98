//! One proof (RFC 9449, section 4.3).

use std::time::Duration;

use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderMap;
use jsonwebtoken::{Algorithm, crypto};
use serde_json::{Map, Value};

use super::{
    Asked, DPOP, ProofError,
    nonce::{self, Freshness},
    target, thumbprint,
};
use crate::identity::{
    claims, json,
    key::VerificationKey,
    token::{MAX_TOKEN, same_type},
};

/// The longest `jti`, in bytes.
const MAX_ID: usize = 256;

/// As [`super::ALGORITHMS`] names them: asymmetric only.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// The members that only private and symmetric keys have (RFC 7518, section 6).
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// What a proof has to prove.
pub(super) struct Wanted<'a> {
    /// As it was sent.
    pub(super) token: &'a str,
    /// Of the key that the token is bound to.
    pub(super) thumbprint: &'a [u8; 32],
    pub(super) asked: &'a Asked<'a>,
    pub(super) max_age: Duration,
    pub(super) leeway: Duration,
    /// Since the epoch.
    pub(super) now: Duration,
    /// By which key and for which issuer nonces are made; `None`: proofs need none.
    pub(super) nonces: Option<(&'a hmac::Key, &'a str)>,
}

/// A proof that holds, if it was not used before.
pub(super) struct Proof {
    /// `jti`.
    pub(super) id: String,
    /// When it is too old, since the epoch.
    pub(super) ends: Duration,
    /// Of its nonce, if it needs one.
    pub(super) freshness: Option<Freshness>,
}

/// The one proof of a request.
pub(super) fn only(fields: &HeaderMap) -> Result<&str, ProofError> {
    let mut values = fields.get_all(DPOP).iter();
    let value = values.next().ok_or(ProofError::Missing)?;
    if values.next().is_some() {
        return Err(ProofError::Several);
    }
    value.to_str().map_err(|_| ProofError::Malformed)
}

/// Checks a proof.
///
/// The key is compared with the token's before anything is computed with it, so that nobody can have
/// signatures of costly keys verified that an issuer has not bound a token to.
pub(super) fn verify(proof: &str, wanted: &Wanted<'_>) -> Result<Proof, ProofError> {
    if proof.len() > MAX_TOKEN {
        return Err(ProofError::Malformed);
    }
    let (message, signature) = proof.rsplit_once('.').ok_or(ProofError::Malformed)?;
    let (header, payload) = message.split_once('.').ok_or(ProofError::Malformed)?;
    if payload.contains('.') || signature.is_empty() {
        return Err(ProofError::Malformed);
    }
    let key = key(&part(header)?, wanted.thumbprint)?;
    match crypto::verify(signature, message.as_bytes(), &key.decoding, key.algorithm) {
        Ok(true) => {}
        Ok(false) | Err(_) => return Err(ProofError::Signature),
    }
    check(&part(payload)?, wanted)
}

fn part(encoded: &str) -> Result<Map<String, Value>, ProofError> {
    let text = URL_SAFE_NO_PAD
        .decode(encoded)
        .map_err(|_| ProofError::Malformed)?;
    json::object(&text).map_err(|_| ProofError::NotJson)
}

/// The key that the header brings, if it is the one that the token is bound to.
fn key(header: &Map<String, Value>, thumbprint: &[u8; 32]) -> Result<VerificationKey, ProofError> {
    if header.contains_key("crit") {
        return Err(ProofError::Critical);
    }
    let text = |name| header.get(name).and_then(Value::as_str);
    if !text("typ").is_some_and(|given| same_type(given, "dpop+jwt")) {
        return Err(ProofError::Type);
    }
    let algorithm: Algorithm = text("alg")
        .and_then(|name| name.parse().ok())
        .filter(|algorithm| ALGORITHMS.contains(algorithm))
        .ok_or(ProofError::Algorithm)?;
    let jwk = header.get("jwk").ok_or(ProofError::Key)?;
    let members = jwk.as_object().ok_or(ProofError::Key)?;
    if PRIVATE.iter().any(|name| members.contains_key(*name)) {
        return Err(ProofError::PrivateKey);
    }
    if thumbprint::of(members).ok_or(ProofError::Key)? != *thumbprint {
        return Err(ProofError::OtherKey);
    }
    VerificationKey::from_json(jwk, &[algorithm]).map_err(|_| ProofError::Key)
}

fn check(claims: &Map<String, Value>, wanted: &Wanted<'_>) -> Result<Proof, ProofError> {
    let text = |name| {
        claims
            .get(name)
            .and_then(Value::as_str)
            .ok_or(ProofError::Claim(name))
    };
    let id = text("jti")?;
    if id.is_empty() || id.len() > MAX_ID {
        return Err(ProofError::Claim("jti"));
    }
    if text("htm")? != wanted.asked.method.as_str() {
        return Err(ProofError::Method);
    }
    if !target::is_for(text("htu")?, wanted.asked) {
        return Err(ProofError::Target);
    }
    if text("ath")? != URL_SAFE_NO_PAD.encode(digest(&SHA256, wanted.token.as_bytes())) {
        return Err(ProofError::Token);
    }
    let freshness = match wanted.nonces {
        None => None,
        Some((secret, issuer)) => {
            let given = claims.get("nonce").and_then(Value::as_str);
            let freshness = given.and_then(|given| nonce::judge(secret, issuer, given, wanted.now));
            Some(freshness.ok_or(ProofError::Nonce)?)
        }
    };
    Ok(Proof {
        id: id.to_owned(),
        ends: check_times(claims, wanted)?,
        freshness,
    })
}

/// When the proof ends. Beside `iat`, what a JWT may say about its time holds too (RFC 7519, section 4.1).
fn check_times(claims: &Map<String, Value>, wanted: &Wanted<'_>) -> Result<Duration, ProofError> {
    let date = |name| claims::date(claims, name).map_err(|_| ProofError::Claim(name));
    let issued = date("iat")?.ok_or(ProofError::Claim("iat"))?;
    let begins = [Some(&issued), date("nbf")?.as_ref()]
        .into_iter()
        .flatten()
        .map(claims::Date::ceil_seconds)
        .max();
    if begins.is_some_and(|begins| begins > wanted.now + wanted.leeway) {
        return Err(ProofError::InFuture);
    }
    let too_old = issued.floor_seconds() + wanted.max_age;
    let expires = date("exp")?.map(|expires| expires.floor_seconds() + wanted.leeway);
    if wanted.now > too_old || expires.is_some_and(|expires| wanted.now >= expires) {
        return Err(ProofError::TooOld);
    }
    Ok(too_old)
}
