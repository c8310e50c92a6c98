//! Revoked proofs.

use std::sync::Arc;

use super::{
    Head, Known,
    api_keys::from_hex,
    packet::{reason, until},
};
use crate::{
    raw,
    yaml::place::{Place, Unique, parsed},
};
use enforcer_model::{Credential, Revocation, Revocations};

/// The most entries of all documents together.
const MOST_ENTRIES: usize = 100_000;

/// The longest `jti`, `sub`, `clientId`, key's id and name of a certificate's issuer, in bytes.
const LONGEST: usize = 2048;

/// The longest serial number, in bytes (RFC 5280, section 4.1.2.2).
const LONGEST_SERIAL: usize = 20;

/// What each entry names, in order of the fields.
const FIELDS: [&str; 5] = ["token", "subject", "client", "key", "certificate"];

/// Which proofs are revoked, in all documents.
pub(super) struct Claims {
    seen: Unique<Credential>,
    count: usize,
}

impl Claims {
    pub(super) fn new() -> Self {
        Self {
            seen: Unique::default(),
            count: 0,
        }
    }
}

pub(super) fn build(
    head: Option<Head>,
    raw: raw::Revocations,
    at: &Place<'_>,
    known: &Known,
    claims: &mut Claims,
) -> Option<Revocations> {
    let entries = at.required("entries", raw.entries, |list, place| {
        let before = claims.count;
        claims.count += list.len();
        if before <= MOST_ENTRIES && claims.count > MOST_ENTRIES {
            place.error(format!(
                "there are more than {MOST_ENTRIES} entries in all: take out those whose proofs have expired, or revoke a subject, a client or the issuer's key instead of single tokens"
            ));
        }
        Some(at.each("entries", list, |(raw, at)| entry(raw, &at, known, claims)))
    });
    let head = head?;
    Some(Revocations {
        name: head.name,
        origin: head.origin,
        entries: entries?,
    })
}

fn entry(raw: raw::Revocation, at: &Place<'_>, known: &Known, claims: &mut Claims) -> Option<Revocation> {
    let named = FIELDS.iter().filter(|field| at.mentions(field)).count();
    if named != 1 {
        at.error_with(
            format!("an entry names one proof, and here are {named}"),
            "write one of `token: {issuer, jti}`, `subject: {issuer, sub}`, `client: {issuer, clientId}`, `key: ID`, `certificate: {sha256}` and `certificate: {serial, issuer}`",
        );
        return None;
    }
    let what = what(&raw, at, known);
    let reason = at.optional("reason", raw.reason, reason);
    let until = at.optional("until", raw.until, |text, at| until(&text, at));
    let what = what?;
    claims.seen.claim(what.clone(), at, |first| {
        format!("the same is revoked at {first} already: write it once")
    });
    Some(Revocation { what, reason, until })
}

fn what(raw: &raw::Revocation, at: &Place<'_>, known: &Known) -> Option<Credential> {
    let token = at.optional("token", raw.token.as_ref(), |raw, at| {
        let issuer = at.required("issuer", raw.issuer.as_ref(), |text, at| known.issuer(text, at));
        let id = at.required("jti", raw.jti.as_ref(), parsed(text));
        Some(Credential::Token {
            issuer: issuer?,
            id: id?,
        })
    });
    let subject = at.optional("subject", raw.subject.as_ref(), |raw, at| {
        let issuer = at.required("issuer", raw.issuer.as_ref(), |text, at| known.issuer(text, at));
        let subject = at.required("sub", raw.sub.as_ref(), parsed(text));
        Some(Credential::Subject {
            issuer: issuer?,
            subject: subject?,
        })
    });
    let client = at.optional("client", raw.client.as_ref(), |raw, at| {
        let issuer = at.required("issuer", raw.issuer.as_ref(), |text, at| known.issuer(text, at));
        let client = at.required("clientId", raw.client_id.as_ref(), parsed(text));
        Some(Credential::Client {
            issuer: issuer?,
            client: client?,
        })
    });
    let key = at
        .optional("key", raw.key.as_ref(), parsed(text))
        .map(Credential::Key);
    let certificate = at.optional("certificate", raw.certificate.as_ref(), |raw, at| {
        certificate(
            raw.sha256.as_deref(),
            raw.serial.as_deref(),
            raw.issuer.as_deref(),
        )
        .map_err(|message| at.error(message))
        .ok()
    });
    token.or(subject).or(client).or(key).or(certificate)
}

/// A name that is compared byte by byte.
pub fn text(text: &str) -> Result<Arc<str>, String> {
    if text.is_empty() || text.len() > LONGEST {
        return Err(format!("write 1 to {LONGEST} bytes, as the proof has them"));
    }
    Ok(text.into())
}

/// A certificate by its fingerprint, or by its serial number and its issuer's name.
///
/// # Errors
/// What is missing or wrong.
pub fn certificate(
    sha256: Option<&str>,
    serial: Option<&str>,
    issuer: Option<&str>,
) -> Result<Credential, String> {
    match (sha256, serial, issuer) {
        (Some(fingerprint), None, None) => {
            let digits = fingerprint.strip_prefix("sha256:").unwrap_or(fingerprint);
            let bytes = bytes(digits).and_then(|bytes| bytes.try_into().ok());
            bytes.map(Credential::Certificate).ok_or_else(|| {
                format!("`{fingerprint}` is no fingerprint: write the SHA-256 of the certificate's DER, 64 hexadecimal digits")
            })
        }
        (None, Some(number), Some(issuer)) => {
            let whole = bytes(number).unwrap_or_default();
            let zeros = whole.iter().take_while(|&&byte| byte == 0).count();
            if whole.is_empty() || whole.len() - zeros > LONGEST_SERIAL {
                return Err(format!(
                    "`{number}` is no serial number: write 1 to {LONGEST_SERIAL} bytes, each as two hexadecimal digits"
                ));
            }
            Ok(Credential::Serial {
                issuer: text(issuer)?,
                serial: whole[zeros..].into(),
            })
        }
        _ => Err("a certificate is named by `sha256`, or by `serial` and `issuer`".to_owned()),
    }
}

/// Pairs of hexadecimal digits, which colons may part.
fn bytes(text: &str) -> Option<Vec<u8>> {
    from_hex(&text.replace(':', ""))
}
