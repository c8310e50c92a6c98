//! Keys and signatures: ES256.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow, bail};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::KeyPair;
use serde::Serialize;

/// How many keys stay published; older ones go.
const MOST_KEYS: usize = 4;

/// An uncompressed point of P-256: a tag, then x and y.
const POINT_TAG: u8 = 4;
const COORDINATE: usize = 32;

/// The claims of RFC 9068, section 2.2.
#[derive(Debug, Serialize)]
pub(crate) struct Claims<'a> {
    pub(crate) iss: &'a str,
    pub(crate) sub: &'a str,
    pub(crate) aud: &'a str,
    pub(crate) client_id: &'a str,
    pub(crate) scope: &'a str,
    pub(crate) iat: u64,
    pub(crate) exp: u64,
    pub(crate) jti: String,
}

/// The published keys, newest last: that one signs.
#[derive(Debug)]
pub(crate) struct Keys {
    made: u64,
    keys: Vec<Key>,
}

struct Key {
    id: String,
    signing: EncodingKey,
    jwk: serde_json::Value,
    pem: String,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Keys {
    pub(crate) fn create() -> Result<Self> {
        let mut keys = Self {
            made: 0,
            keys: Vec::new(),
        };
        keys.rotate()?;
        Ok(keys)
    }

    pub(crate) fn rotate(&mut self) -> Result<()> {
        self.made += 1;
        self.keys.push(Key::create(format!("lab-{}", self.made))?);
        if self.keys.len() > MOST_KEYS {
            self.keys.remove(0);
        }
        Ok(())
    }

    pub(crate) fn sign(&self, claims: &Claims<'_>) -> Result<String> {
        let key = self.keys.last().ok_or_else(|| anyhow!("the issuer has no key"))?;
        let header = Header {
            typ: Some("at+jwt".to_owned()),
            kid: Some(key.id.clone()),
            ..Header::new(Algorithm::ES256)
        };
        Ok(jsonwebtoken::encode(&header, claims, &key.signing)?)
    }

    pub(crate) fn published(&self) -> serde_json::Value {
        let keys: Vec<&serde_json::Value> = self.keys.iter().map(|key| &key.jwk).collect();
        serde_json::json!({ "keys": keys })
    }

    /// The public key that belongs to new tokens, as PEM (RFC 7468).
    pub(crate) fn public_pem(&self) -> &str {
        self.keys.last().map_or("", |key| &key.pem)
    }
}

impl Key {
    fn create(id: String) -> Result<Self> {
        let pair = KeyPair::generate()?;
        let point = pair.public_key_raw();
        let (Some(&POINT_TAG), Some(coordinates)) = (point.first(), point.get(1..=2 * COORDINATE)) else {
            bail!("a P-256 key that is no uncompressed point");
        };
        let (x, y) = coordinates.split_at(COORDINATE);
        let jwk = serde_json::json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": id,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        });
        Ok(Self {
            id,
            signing: EncodingKey::from_ec_der(&pair.serialize_der()),
            jwk,
            pem: pair.public_key_pem(),
        })
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// An unguessable token identifier.
pub(crate) fn token_id() -> Result<String> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_unspecified| anyhow!("no randomness"))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}
