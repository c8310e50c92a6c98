//! An issuer of tokens.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use enforcer_model::{CheckedBy, Dpop, Issuer, Jwks, JwksSource, Profile};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PublicKeyData};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::policy;

/// One that writes its key into a file.
pub(crate) struct Corp {
    pub(crate) directory: TempDir,
    key: SigningKey,
}

/// A key that tokens are signed with.
pub(crate) struct SigningKey {
    id: &'static str,
    pair: KeyPair,
}

/// The document in which an issuer publishes these keys.
pub(crate) fn key_set(keys: &[&SigningKey]) -> Value {
    json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()})
}

impl SigningKey {
    pub(crate) fn new(id: &'static str) -> Self {
        Self {
            id,
            pair: KeyPair::generate().unwrap(),
        }
    }

    fn jwk(&self) -> Value {
        let point = self.pair.der_bytes();
        let part = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&point[range]);
        json!({
            "kty": "EC", "crv": "P-256", "kid": self.id, "alg": "ES256", "use": "sig",
            "x": part(1..33), "y": part(33..65),
        })
    }

    /// A token that holds for five minutes, with these claims beside the usual ones, or in their place.
    pub(crate) fn token_with(&self, more: &Value) -> String {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let mut claims = json!({
            "iss": "https://idp.example.com", "aud": "orders", "sub": "alice", "client_id": "web",
            "iat": now, "exp": now + 300, "jti": "1",
        });
        let members = claims.as_object_mut().unwrap();
        members.extend(more.as_object().unwrap().clone());
        let header = Header {
            typ: Some("at+jwt".to_owned()),
            kid: Some(self.id.to_owned()),
            ..Header::new(Algorithm::ES256)
        };
        let key = EncodingKey::from_ec_der(&self.pair.serialize_der());
        jsonwebtoken::encode(&header, &claims, &key).unwrap()
    }
}

impl Corp {
    pub(crate) fn new() -> Self {
        let corp = Self {
            directory: TempDir::new().unwrap(),
            key: SigningKey::new("1"),
        };
        let keys = key_set(&[&corp.key]).to_string();
        fs::write(corp.directory.path().join("jwks.json"), keys).unwrap();
        corp
    }

    pub(crate) fn issuer(&self) -> Issuer {
        Issuer {
            name: policy::name("corp"),
            origin: policy::origin(),
            issuer: "https://idp.example.com".into(),
            checked_by: CheckedBy::Keys(Jwks {
                source: JwksSource::File(self.directory.path().join("jwks.json")),
                refresh: Duration::from_secs(600),
            }),
            audiences: vec!["orders".into()],
            algorithms: vec![Algorithm::ES256],
            types: vec!["at+jwt".into()],
            profile: Profile::default(),
            leeway: Duration::from_secs(5),
            tier: None,
            kept: Vec::new(),
            dpop: Dpop::default(),
        }
    }

    pub(crate) fn token(&self, scope: &str) -> String {
        self.token_with(&json!({"scope": scope}))
    }

    /// A token with these claims beside the usual ones, or in their place.
    pub(crate) fn token_with(&self, more: &Value) -> String {
        self.key.token_with(more)
    }
}
