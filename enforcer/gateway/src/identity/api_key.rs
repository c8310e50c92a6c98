//! API keys: how they look, and which one a request has.
//!
//! A key is `enf_`, then base64url (RFC 4648 section 5) of 32 random bytes and a CRC-32 of them, big endian: 52
//! characters. By the beginning and the checksum, scanners find keys in places where they do not belong, and a
//! mistyped one is told from a wrong one without asking anybody.
//!
//! Policies hold the SHA-256 of the whole key. A slow hash would add nothing: it makes up for secrets that can be
//! guessed, and nobody guesses one of 2²⁵⁶. Nor does it matter how long a look-up takes: it compares hashes, and
//! whoever sends a key cannot choose its hash digit by digit.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use aws_lc_rs::{
    digest::{SHA256, digest},
    error::Unspecified,
    rand,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, StatusCode};
use thiserror::Error;

use super::reason::Reason;
use crate::signal::Verdict;
use enforcer_model::{ApiKey, ApiKeyRequirement, ApiKeys};

/// What every key begins with.
const BEGINNING: &str = "enf_";
/// Random bytes of a key.
const SECRET: usize = 32;
/// Bytes of its checksum.
const CHECK: usize = 4;
/// The length of a whole key, in bytes.
const LENGTH: usize = BEGINNING.len() + (SECRET + CHECK) * 4 / 3;

/// All keys of a generation, by their hashes.
#[derive(Debug, Default)]
pub struct KeyRing(HashMap<[u8; 32], Arc<ApiKey>>);

/// Why a request is not admitted by its key. The texts name no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    #[error("an API key is required and none was sent")]
    Missing,
    #[error("several API keys: send one")]
    Several,
    #[error("this is no API key: it is cut off or mistyped")]
    Malformed,
    #[error("there is no such API key")]
    Unknown,
    #[error("the API key has expired")]
    Expired,
    /// It is in another document than the rule's.
    #[error("the API key is not for this")]
    Elsewhere,
}

impl KeyError {
    /// The status to answer with.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Several => StatusCode::BAD_REQUEST,
            Self::Missing | Self::Malformed | Self::Unknown | Self::Expired => StatusCode::UNAUTHORIZED,
            Self::Elsewhere => StatusCode::FORBIDDEN,
        }
    }

    /// How it counts.
    #[must_use]
    pub fn verdict(self) -> Verdict {
        match self {
            Self::Elsewhere => Verdict::Forbidden,
            _ => Verdict::Unauthenticated,
        }
    }

    /// What was missing.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::Missing => Reason::KeyMissing,
            Self::Several | Self::Malformed => Reason::KeyUnreadable,
            Self::Unknown => Reason::KeyUnknown,
            Self::Expired => Reason::KeyExpired,
            Self::Elsewhere => Reason::KeyElsewhere,
        }
    }

    /// The `error` of a challenge (RFC 6750, section 3.1), if one was sent.
    #[must_use]
    pub fn code(self) -> Option<&'static str> {
        match self {
            Self::Missing => None,
            Self::Several => Some("invalid_request"),
            Self::Malformed | Self::Unknown | Self::Expired => Some("invalid_token"),
            Self::Elsewhere => Some("insufficient_scope"),
        }
    }

    /// Whether the key was guessed: nobody has made it.
    #[must_use]
    pub fn is_forged(self) -> bool {
        matches!(self, Self::Malformed | Self::Unknown)
    }

    /// Whether a key was offered and is refused.
    #[must_use]
    pub fn is_attempt(self) -> bool {
        self != Self::Missing
    }
}

impl KeyRing {
    /// The keys of these documents, in which no hash is twice.
    #[must_use]
    pub fn new(documents: &[Arc<ApiKeys>]) -> Self {
        let keys = documents.iter().flat_map(|document| &document.keys);
        Self(keys.map(|key| (key.hash, Arc::clone(key))).collect())
    }

    /// Whether a key is still among them.
    pub(crate) fn has(&self, key: &ApiKey) -> bool {
        self.0.contains_key(&key.hash)
    }

    /// The key that a request has in its fields, if it is one that `wanted` admits.
    ///
    /// # Errors
    /// What is wrong with it, or that there is none.
    pub fn verify(
        &self,
        wanted: &ApiKeyRequirement,
        fields: &HeaderMap,
        now: SystemTime,
    ) -> Result<&Arc<ApiKey>, KeyError> {
        let mut values = fields.get_all(&wanted.header).iter();
        let offered = values.next().ok_or(KeyError::Missing)?.as_bytes();
        if values.next().is_some() {
            return Err(KeyError::Several);
        }
        if !is_well_formed(offered) {
            return Err(KeyError::Malformed);
        }
        let key = self.0.get(&hash(offered)).ok_or(KeyError::Unknown)?;
        if !wanted.keys.contains(&key.document) {
            return Err(KeyError::Elsewhere);
        }
        match key.expires {
            Some(expires) if SystemTime::from(expires) <= now => Err(KeyError::Expired),
            _ => Ok(key),
        }
    }
}

/// A new key.
///
/// # Errors
/// If the system has no randomness.
pub fn generate() -> Result<String, Unspecified> {
    let mut bytes = [0; SECRET + CHECK];
    let (secret, check) = bytes.split_at_mut(SECRET);
    rand::fill(secret)?;
    check.copy_from_slice(&crc32fast::hash(secret).to_be_bytes());
    Ok(format!("{BEGINNING}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// What policies hold of a key.
#[must_use]
pub fn hash(key: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, key).as_ref());
    out
}

/// Whether it looks like a key and its checksum is right.
#[must_use]
pub fn is_well_formed(key: &[u8]) -> bool {
    let mut bytes = [0; SECRET + CHECK];
    if key.len() != LENGTH || !key.starts_with(BEGINNING.as_bytes()) {
        return false;
    }
    let decoded = URL_SAFE_NO_PAD.decode_slice(&key[BEGINNING.len()..], &mut bytes);
    let (secret, check) = bytes.split_at(SECRET);
    decoded == Ok(bytes.len()) && check == crc32fast::hash(secret).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderName;
    use time::OffsetDateTime;

    use super::*;
    use enforcer_model::Origin;

    const NOW: i64 = 1_800_000_000;

    fn key(document: &str, text: &str, expires: Option<i64>) -> ApiKey {
        ApiKey {
            document: document.parse().unwrap(),
            id: text.into(),
            hash: hash(text.as_bytes()),
            owner: "alice".into(),
            tier: None,
            roles: Vec::new(),
            expires: expires.map(|at| OffsetDateTime::from_unix_timestamp(at).unwrap()),
        }
    }

    fn document(name: &str, keys: Vec<ApiKey>) -> Arc<ApiKeys> {
        Arc::new(ApiKeys {
            name: name.parse().unwrap(),
            origin: Origin {
                file: "keys.yaml".into(),
                line: 1,
            },
            keys: keys.into_iter().map(Arc::new).collect(),
        })
    }

    #[test]
    fn keys_are_long_random_and_checked() {
        let keys: Vec<String> = (0..100).map(|_| generate().unwrap()).collect();
        for key in &keys {
            assert!(is_well_formed(key.as_bytes()), "{key}");
            assert_eq!(key.len(), 52);
            for place in 0..key.len() {
                let mut wrong = key.clone().into_bytes();
                wrong[place] = if wrong[place] == b'A' { b'B' } else { b'A' };
                assert!(!is_well_formed(&wrong), "{key} at {place}");
            }
        }
        let mut distinct = keys.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), keys.len());
        for text in [
            "",
            "enf_",
            &keys[0][..51],
            &format!("{}A", keys[0]),
            &"A".repeat(52),
        ] {
            assert!(!is_well_formed(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn a_request_is_judged_by_its_one_key() {
        let [good, old, late, elsewhere, unknown] = std::array::from_fn(|_| generate().unwrap());
        let ours = vec![
            key("ours", &good, None),
            key("ours", &old, Some(NOW)),
            key("ours", &late, Some(NOW + 1)),
        ];
        let theirs = vec![key("theirs", &elsewhere, None)];
        let ring = KeyRing::new(&[document("ours", ours), document("theirs", theirs)]);
        let wanted = ApiKeyRequirement {
            roles: Vec::new(),
            keys: vec!["others".parse().unwrap(), "ours".parse().unwrap()],
            header: HeaderName::from_static("x-key"),
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW.unsigned_abs());
        let cut = &good[..50];
        for (sent, expected) in [
            (&[good.as_str()][..], Ok(&*good)),
            (&[&late], Ok(&*late)),
            (&[], Err(KeyError::Missing)),
            (&[&good, &good], Err(KeyError::Several)),
            (&[cut], Err(KeyError::Malformed)),
            (&[""], Err(KeyError::Malformed)),
            (&[&unknown], Err(KeyError::Unknown)),
            (&[&old], Err(KeyError::Expired)),
            (&[&elsewhere], Err(KeyError::Elsewhere)),
        ] {
            let fields = sent
                .iter()
                .map(|value| (wanted.header.clone(), value.parse().unwrap()));
            let verified = ring.verify(&wanted, &fields.collect(), now);
            assert_eq!(verified.map(|key| &*key.id), expected, "{sent:?}");
        }
    }
}
