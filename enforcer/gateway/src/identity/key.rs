//! One public key of an issuer, tied to one algorithm (RFC 8725, section 3.1; RFC 7517).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde::Deserialize;
use thiserror::Error;

/// The longest RSA modulus, in bytes: verifying with longer ones would be a way to burn processors.
const MAX_MODULUS: usize = 1024;
/// The shortest RSA modulus, in bytes (RFC 7518, section 3.3).
const MIN_MODULUS: usize = 256;

/// A key that verifies signatures of one algorithm.
#[derive(Clone, Debug)]
pub struct VerificationKey {
    /// The `kid`.
    pub id: Option<Box<str>>,
    /// The only algorithm that the key is used with.
    pub algorithm: Algorithm,
    /// The key, as the cryptography wants it.
    pub decoding: DecodingKey,
    /// The parts that make up the key, as the document has them, to compare keys by.
    material: Material,
}

/// Modulus and exponent, or coordinates, in base64url.
type Material = (Box<str>, Box<str>);

/// Why a key of a document is not used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeyProblem {
    /// A member is missing or of the wrong type.
    #[error("it is no JSON Web Key: it needs `kty`, and text in `use`, `alg`, `kid`")]
    Malformed,
    /// `use` or `key_ops` say so.
    #[error("it is not for verifying signatures: `use` must be `sig`, or `key_ops` have `verify`")]
    OtherUse,
    /// Also symmetric keys, and curves that no allowed algorithm uses.
    #[error("no algorithm that the policy allows fits its `kty`, `crv` and `alg`")]
    NoAllowedAlgorithm,
    /// One key, one algorithm: a key that fits several must say which.
    #[error(
        "it fits several algorithms that the policy allows: the issuer must set `alg`, or the policy allow one"
    )]
    SeveralAlgorithms,
    /// Coordinates, modulus or exponent are not what they must be.
    #[error("its parameters are wrong: they must be base64url of the right length, RSA of 2048 to 8192 bits")]
    Parameters,
}

/// A JSON Web Key as it comes. Unknown members are to be ignored (RFC 7517, section 4).
#[derive(Deserialize)]
struct RawKey {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<Box<str>>,
    crv: Option<String>,
    x: Option<Box<str>>,
    y: Option<Box<str>>,
    n: Option<Box<str>>,
    e: Option<Box<str>>,
}

impl VerificationKey {
    /// Reads one element of a set's `keys`.
    ///
    /// # Errors
    /// Why the key cannot be used with any of the `allowed` algorithms.
    pub fn from_json(value: &serde_json::Value, allowed: &[Algorithm]) -> Result<Self, KeyProblem> {
        let raw = RawKey::deserialize(value).map_err(|_| KeyProblem::Malformed)?;
        let verifies = |ops: &Vec<String>| ops.iter().any(|op| op == "verify");
        if raw.usage.as_ref().is_some_and(|usage| usage != "sig")
            || raw.key_ops.as_ref().is_some_and(|ops| !verifies(ops))
        {
            return Err(KeyProblem::OtherUse);
        }
        let algorithm = raw.algorithm(allowed)?;
        let (material, decoding) = raw.material(algorithm).ok_or(KeyProblem::Parameters)?;
        Ok(Self {
            id: raw.kid,
            algorithm,
            decoding,
            material,
        })
    }
}

impl PartialEq for VerificationKey {
    fn eq(&self, other: &Self) -> bool {
        (&self.id, self.algorithm, &self.material) == (&other.id, other.algorithm, &other.material)
    }
}

impl RawKey {
    fn algorithm(&self, allowed: &[Algorithm]) -> Result<Algorithm, KeyProblem> {
        let mut fitting = allowed.iter().copied().filter(|&algorithm| self.fits(algorithm));
        let algorithm = fitting.next().ok_or(KeyProblem::NoAllowedAlgorithm)?;
        if fitting.any(|another| another != algorithm) {
            return Err(KeyProblem::SeveralAlgorithms);
        }
        Ok(algorithm)
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        let curve = self.crv.as_deref();
        let key = match algorithm {
            // RFC 7518, section 3.4: each algorithm has its curve.
            Algorithm::ES256 => self.kty == "EC" && curve == Some("P-256"),
            Algorithm::ES384 => self.kty == "EC" && curve == Some("P-384"),
            Algorithm::EdDSA => self.kty == "OKP" && curve == Some("Ed25519"),
            other => other.family() == AlgorithmFamily::Rsa && self.kty == "RSA",
        };
        let names = |alg: &String| {
            alg.parse() == Ok(algorithm) || (alg == "Ed25519" && algorithm == Algorithm::EdDSA)
        };
        key && self.alg.as_ref().is_none_or(names)
    }

    fn material(&self, algorithm: Algorithm) -> Option<(Material, DecodingKey)> {
        let bytes = |text: &Option<Box<str>>| URL_SAFE_NO_PAD.decode(&**text.as_ref()?).ok();
        let coordinate = |text, length| bytes(text).filter(|bytes| bytes.len() == length);
        let (first, second, decoding) = match algorithm {
            Algorithm::ES256 | Algorithm::ES384 => {
                let length = if algorithm == Algorithm::ES256 { 32 } else { 48 };
                let (x, y) = (coordinate(&self.x, length)?, coordinate(&self.y, length)?);
                let point = [&[4], &*x, &*y].concat();
                (&self.x, &self.y, DecodingKey::from_ec_der(&point))
            }
            Algorithm::EdDSA => {
                let x = coordinate(&self.x, 32)?;
                (&self.x, &None, DecodingKey::from_ed_der(&x))
            }
            _ => {
                let (n, e) = (bytes(&self.n)?, bytes(&self.e)?);
                let sound = (MIN_MODULUS..=MAX_MODULUS).contains(&n.len())
                    && n.first() != Some(&0)
                    && (1..=4).contains(&e.len());
                if !sound {
                    return None;
                }
                (&self.n, &self.e, DecodingKey::from_rsa_raw_components(&n, &e))
            }
        };
        let owned = |text: &Option<Box<str>>| text.clone().unwrap_or_default();
        Some(((owned(first), owned(second)), decoding))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn coordinate(length: usize) -> String {
        URL_SAFE_NO_PAD.encode(vec![7; length])
    }

    fn ec() -> Value {
        json!({"kty": "EC", "crv": "P-256", "x": coordinate(32), "y": coordinate(32)})
    }

    fn with(mut key: Value, name: &str, value: Value) -> Value {
        key[name] = value;
        key
    }

    #[test]
    fn a_key_takes_the_one_algorithm_that_fits() {
        let all = [
            Algorithm::RS256,
            Algorithm::ES256,
            Algorithm::ES384,
            Algorithm::EdDSA,
        ];
        let rsa = json!({"kty": "RSA", "n": coordinate(256), "e": "AQAB"});
        let ed = json!({"kty": "OKP", "crv": "Ed25519", "x": coordinate(32)});
        let p384 = json!({"kty": "EC", "crv": "P-384", "x": coordinate(48), "y": coordinate(48)});
        for (key, algorithm) in [
            (ec(), Algorithm::ES256),
            (with(ec(), "use", json!("sig")), Algorithm::ES256),
            (with(ec(), "key_ops", json!(["sign", "verify"])), Algorithm::ES256),
            (with(ec(), "x5c", json!(["ignored"])), Algorithm::ES256),
            (p384, Algorithm::ES384),
            (rsa, Algorithm::RS256),
            (with(ed.clone(), "alg", json!("Ed25519")), Algorithm::EdDSA),
            (ed, Algorithm::EdDSA),
        ] {
            let read = VerificationKey::from_json(&key, &all).unwrap();
            assert_eq!(read.algorithm, algorithm, "{key}");
        }
    }

    #[test]
    fn keys_that_do_not_fit_say_why() {
        let rsa = json!({"kty": "RSA", "n": coordinate(256), "e": "AQAB"});
        let allowed = [Algorithm::ES256, Algorithm::RS256, Algorithm::PS256];
        for (key, problem) in [
            (json!(null), KeyProblem::Malformed),
            (json!({}), KeyProblem::Malformed),
            (with(ec(), "kid", json!(1)), KeyProblem::Malformed),
            (with(ec(), "use", json!("enc")), KeyProblem::OtherUse),
            (with(ec(), "key_ops", json!(["encrypt"])), KeyProblem::OtherUse),
            (with(ec(), "alg", json!("ES384")), KeyProblem::NoAllowedAlgorithm),
            (with(ec(), "alg", json!("HS256")), KeyProblem::NoAllowedAlgorithm),
            (with(ec(), "crv", json!("P-384")), KeyProblem::NoAllowedAlgorithm),
            (with(ec(), "crv", json!("P-521")), KeyProblem::NoAllowedAlgorithm),
            (
                json!({"kty": "oct", "k": "c2VjcmV0"}),
                KeyProblem::NoAllowedAlgorithm,
            ),
            (rsa.clone(), KeyProblem::SeveralAlgorithms),
            (with(ec(), "x", json!(coordinate(31))), KeyProblem::Parameters),
            (with(ec(), "y", json!(null)), KeyProblem::Parameters),
            (with(ec(), "y", json!("*")), KeyProblem::Parameters),
            (
                with(
                    with(rsa.clone(), "alg", json!("RS256")),
                    "n",
                    json!(coordinate(128)),
                ),
                KeyProblem::Parameters,
            ),
            (
                with(with(rsa, "alg", json!("RS256")), "n", json!(coordinate(2048))),
                KeyProblem::Parameters,
            ),
        ] {
            let read = VerificationKey::from_json(&key, &allowed);
            assert_eq!(read.err(), Some(problem), "{key}");
        }
    }
}
