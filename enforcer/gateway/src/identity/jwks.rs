//! Key sets (RFC 7517): which key a token's signature is checked with.

use std::sync::atomic::{AtomicU64, Ordering};

use jsonwebtoken::Algorithm;
use serde_json::Value;
use thiserror::Error;

use super::key::{KeyProblem, VerificationKey};

/// The most keys that a set may hold, used or not.
pub const MAX_KEYS: usize = 64;

/// The keys of an issuer that are in use at one time.
#[derive(Debug)]
pub struct KeySet {
    /// Tells this set from every other that the process has had.
    generation: u64,
    keys: Vec<VerificationKey>,
    /// The keys of the document that are not used, by position, and why.
    unused: Vec<(usize, KeyProblem)>,
}

/// Why a document is no key set.
#[derive(Debug, Error)]
pub enum KeySetError {
    /// Not JSON, or not an object with an array `keys`.
    #[error("it is no JSON Web Key Set: it must be a JSON object with an array `keys`")]
    Malformed,
    /// More than [`MAX_KEYS`].
    #[error("it holds {0} keys, at most {MAX_KEYS} are read")]
    TooManyKeys(usize),
    /// A set without a single usable key would only lock everybody out.
    #[error("it holds no key that can be used{}", first_problem(.0))]
    NoUsableKey(Vec<(usize, KeyProblem)>),
}

fn first_problem(unused: &[(usize, KeyProblem)]) -> String {
    unused.first().map_or_else(
        || ": `keys` is empty".to_owned(),
        |(position, problem)| format!("; of `keys[{position}]`: {problem}"),
    )
}

/// Which key of a set a token means.
#[derive(Debug)]
pub enum Choice<'a> {
    /// This one.
    Key(&'a VerificationKey),
    /// None has that `kid`; a newer set might.
    Unknown,
    /// The key of that `kid` is for another algorithm.
    OtherAlgorithm,
    /// Several would do, so none does.
    Ambiguous,
}

impl KeySet {
    /// A set without keys: what an issuer has before its document was read.
    #[must_use]
    pub fn empty() -> Self {
        Self::new(Vec::new(), Vec::new())
    }

    /// Reads a document, keeping the keys that are for signatures by an `allowed` algorithm.
    ///
    /// # Errors
    /// If the document is malformed or holds no such key.
    pub fn parse(document: &[u8], allowed: &[Algorithm]) -> Result<Self, KeySetError> {
        let document: Value = serde_json::from_slice(document).map_err(|_| KeySetError::Malformed)?;
        let members = document
            .get("keys")
            .and_then(Value::as_array)
            .ok_or(KeySetError::Malformed)?;
        if members.len() > MAX_KEYS {
            return Err(KeySetError::TooManyKeys(members.len()));
        }
        let (mut keys, mut unused) = (Vec::new(), Vec::new());
        for (position, member) in members.iter().enumerate() {
            match VerificationKey::from_json(member, allowed) {
                Ok(key) => keys.push(key),
                Err(problem) => unused.push((position, problem)),
            }
        }
        if keys.is_empty() {
            return Err(KeySetError::NoUsableKey(unused));
        }
        Ok(Self::new(keys, unused))
    }

    fn new(keys: Vec<VerificationKey>, unused: Vec<(usize, KeyProblem)>) -> Self {
        static GENERATIONS: AtomicU64 = AtomicU64::new(0);
        Self {
            generation: GENERATIONS.fetch_add(1, Ordering::Relaxed),
            keys,
            unused,
        }
    }

    /// What tells this set from others: what was verified with another set has to be verified again.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How many keys are in use.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key is there yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The positions of the document's keys that are not used, and why.
    #[must_use]
    pub fn unused(&self) -> &[(usize, KeyProblem)] {
        &self.unused
    }

    /// Whether the other set holds the same keys, in whatever order.
    #[must_use]
    pub fn same_keys(&self, other: &Self) -> bool {
        self.len() == other.len()
            && self.keys.iter().all(|key| other.keys.contains(key))
            && other.keys.iter().all(|key| self.keys.contains(key))
    }

    /// The key for a token with this `kid` and algorithm. Without a `kid`, the one key of the algorithm.
    #[must_use]
    pub fn choose(&self, id: Option<&str>, algorithm: Algorithm) -> Choice<'_> {
        let mut named = self
            .keys
            .iter()
            .filter(|key| id.is_none() || key.id.as_deref() == id)
            .peekable();
        if named.peek().is_none() {
            return Choice::Unknown;
        }
        let mut fitting = named.filter(|key| key.algorithm == algorithm);
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Choice::Key(key),
            (Some(_), Some(_)) => Choice::Ambiguous,
            (None, _) => Choice::OtherAlgorithm,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A P-256 key; its numbers need not be a point as long as nothing is verified.
    fn key(id: &str, fill: char) -> Value {
        let x = fill.to_string().repeat(42) + "A";
        json!({"kty": "EC", "crv": "P-256", "kid": id, "x": x, "y": x})
    }

    fn parse(keys: &[Value]) -> Result<KeySet, KeySetError> {
        let document = json!({ "keys": keys }).to_string();
        KeySet::parse(document.as_bytes(), &[Algorithm::ES256])
    }

    #[test]
    fn keys_are_found_by_id() {
        let set = parse(&[key("a", 'a'), key("b", 'b'), key("b", 'c'), json!({"kty": "oct"})]).unwrap();
        assert_eq!((set.len(), set.unused().len()), (3, 1));
        assert!(matches!(set.choose(Some("a"), Algorithm::ES256), Choice::Key(_)));
        assert!(matches!(
            set.choose(Some("a"), Algorithm::ES384),
            Choice::OtherAlgorithm
        ));
        assert!(matches!(
            set.choose(Some("b"), Algorithm::ES256),
            Choice::Ambiguous
        ));
        assert!(matches!(set.choose(Some("c"), Algorithm::ES256), Choice::Unknown));
        assert!(matches!(set.choose(None, Algorithm::ES256), Choice::Ambiguous));
        let single = parse(&[key("a", 'a')]).unwrap();
        assert!(matches!(single.choose(None, Algorithm::ES256), Choice::Key(_)));
        assert!(matches!(
            KeySet::empty().choose(None, Algorithm::ES256),
            Choice::Unknown
        ));
    }

    #[test]
    fn useless_documents_are_refused() {
        let parse_text = |text: &str| KeySet::parse(text.as_bytes(), &[Algorithm::ES256]);
        for text in ["", "[]", "{}", r#"{"keys":{}}"#, "<html>"] {
            assert!(matches!(parse_text(text), Err(KeySetError::Malformed)), "{text}");
        }
        assert!(matches!(parse(&[]), Err(KeySetError::NoUsableKey(_))));
        let error = parse(&[json!({"kty": "oct"})]).unwrap_err();
        assert!(error.to_string().contains("`keys[0]`: no algorithm"), "{error}");
        let many = vec![key("a", 'a'); MAX_KEYS + 1];
        assert!(matches!(parse(&many), Err(KeySetError::TooManyKeys(65))));
    }

    #[test]
    fn sets_are_the_same_by_their_keys() {
        let set = parse(&[key("a", 'a'), key("b", 'b')]).unwrap();
        assert!(set.same_keys(&parse(&[key("b", 'b'), key("a", 'a')]).unwrap()));
        assert!(!set.same_keys(&parse(&[key("a", 'a'), key("b", 'c')]).unwrap()));
        assert!(!set.same_keys(&parse(&[key("a", 'a')]).unwrap()));
        assert!(!set.same_keys(&parse(&[key("a", 'a'), key("c", 'b')]).unwrap()));
    }
}
