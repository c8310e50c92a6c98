//! An issuer with real keys.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
        RsaPublicKeyComponents,
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use enforcer_model::{CheckedBy, Dpop, Issuer, Jwks, JwksSource, Origin, Profile};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

/// When the tests' tokens are verified: seconds since the epoch.
pub(crate) const NOW: u64 = 1_800_000_000;

/// A key pair, with the name that its issuer gives it.
pub(crate) struct SigningKey {
    pub(crate) id: &'static str,
    pair: Pair,
}

enum Pair {
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

pub(crate) fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl SigningKey {
    pub(crate) fn es256(id: &'static str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self {
            id,
            pair: Pair::Ec(pair),
        }
    }

    pub(crate) fn eddsa(id: &'static str) -> Self {
        Self {
            id,
            pair: Pair::Ed(Ed25519KeyPair::generate().unwrap()),
        }
    }

    pub(crate) fn rs256(id: &'static str) -> Self {
        Self {
            id,
            pair: Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()),
        }
    }

    pub(crate) fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Ec(_) => "ES256",
            Pair::Ed(_) => "EdDSA",
            Pair::Rsa(_) => "RS256",
        }
    }

    pub(crate) fn public(&self) -> &[u8] {
        match &self.pair {
            Pair::Ec(pair) => pair.public_key().as_ref(),
            Pair::Ed(pair) => pair.public_key().as_ref(),
            Pair::Rsa(pair) => pair.public_key().as_ref(),
        }
    }

    pub(crate) fn jwk(&self) -> Value {
        let mut jwk = match &self.pair {
            Pair::Ec(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "x": base64url(x), "y": base64url(y)})
            }
            Pair::Ed(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(pair.public_key())}),
            Pair::Rsa(pair) => {
                let RsaPublicKeyComponents { n, e } =
                    RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({"kty": "RSA", "n": base64url(n), "e": base64url(e)})
            }
        };
        jwk["kid"] = self.id.into();
        jwk["use"] = "sig".into();
        jwk
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &self.pair {
            Pair::Ec(pair) => pair
                .sign(&SystemRandom::new(), message)
                .unwrap()
                .as_ref()
                .to_vec(),
            Pair::Ed(pair) => pair.sign(message).as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
                    .unwrap();
                signature
            }
        }
    }

    /// The header of a token that is as it should be.
    pub(crate) fn header(&self) -> Value {
        json!({"alg": self.algorithm(), "typ": "at+jwt", "kid": self.id})
    }

    /// A token with whatever header and claims, truly signed by this key.
    pub(crate) fn token(&self, header: &impl ToString, claims: &impl ToString) -> String {
        let message = format!(
            "{}.{}",
            base64url(header.to_string()),
            base64url(claims.to_string())
        );
        let signature = self.sign(message.as_bytes());
        format!("{message}.{}", base64url(signature))
    }

    /// A token that holds.
    pub(crate) fn good_token(&self) -> String {
        self.token(&self.header(), &claims())
    }
}

/// Claims that hold at [`NOW`].
pub(crate) fn claims() -> Value {
    json!({
        "iss": "https://idp.example.com",
        "aud": "orders",
        "sub": "alice",
        "client_id": "shop",
        "scope": "orders:write orders:read",
        "iat": NOW - 10,
        "exp": NOW + 300,
        "jti": "1",
    })
}

pub(crate) fn key_set(keys: &[&SigningKey]) -> Value {
    json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()})
}

/// The policy of the issuer whose keys are at `source`.
pub(crate) fn policy(source: JwksSource, algorithms: &[Algorithm]) -> Issuer {
    Issuer {
        name: "corp".parse().unwrap(),
        origin: Origin {
            file: "corp.yaml".into(),
            line: 3,
        },
        issuer: "https://idp.example.com".into(),
        checked_by: CheckedBy::Keys(Jwks {
            source,
            refresh: Duration::from_secs(600),
        }),
        audiences: vec!["orders".into(), "billing".into()],
        algorithms: algorithms.to_vec(),
        types: vec![Arc::from("at+jwt")],
        profile: Profile::default(),
        leeway: Duration::from_secs(30),
        tier: None,
        kept: vec!["client_id".parse().unwrap()],
        dpop: Dpop::default(),
    }
}
