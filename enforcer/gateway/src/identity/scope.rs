//! The scopes of a token.

use serde_json::{Map, Value};

use super::token::TokenError;

/// A set of scopes, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes(Box<[Box<str>]>);

impl Scopes {
    /// From `scope` (RFC 9068: words with spaces between), else from `scp`, which issuers write as
    /// words or as an array.
    pub(super) fn of_claims(claims: &Map<String, Value>) -> Result<Self, TokenError> {
        if let Some(scope) = claims.get("scope") {
            return scope
                .as_str()
                .and_then(|words| Self::of_words(words.split(' ')))
                .ok_or(TokenError::Invalid("scope"));
        }
        let scopes = match claims.get("scp") {
            None => Some(Self::default()),
            Some(Value::String(words)) => Self::of_words(words.split(' ')),
            Some(Value::Array(array)) => array
                .iter()
                .map(Value::as_str)
                .collect::<Option<Vec<_>>>()
                .and_then(Self::of_words),
            Some(_) => None,
        };
        scopes.ok_or(TokenError::Invalid("scp"))
    }

    fn of_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut scopes = words
            .into_iter()
            .filter(|word| !word.is_empty())
            .map(|word| is_scope(word).then(|| word.into()))
            .collect::<Option<Vec<Box<str>>>>()?;
        scopes.sort_unstable();
        scopes.dedup();
        Some(Self(scopes.into()))
    }

    /// Whether the scope is one of them.
    #[must_use]
    pub fn contains(&self, scope: &str) -> bool {
        self.0.binary_search_by(|held| (**held).cmp(scope)).is_ok()
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|scope| &**scope)
    }
}

/// RFC 6749, section 3.3: printable ASCII but for space, `"` and `\`.
fn is_scope(word: &str) -> bool {
    word.bytes()
        .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scopes(claims: &Value) -> Result<Vec<String>, TokenError> {
        let scopes = Scopes::of_claims(claims.as_object().unwrap())?;
        Ok(scopes.iter().map(str::to_owned).collect())
    }

    #[test]
    fn scopes_are_a_sorted_set() {
        for (claims, expected) in [
            (json!({}), vec![]),
            (json!({"scope": ""}), vec![]),
            (json!({"scope": "b a b"}), vec!["a", "b"]),
            (json!({"scope": "a", "scp": ["b"]}), vec!["a"]),
            (json!({"scp": ["b", "a"]}), vec!["a", "b"]),
            (json!({"scp": "orders:read x/y"}), vec!["orders:read", "x/y"]),
        ] {
            assert_eq!(scopes(&claims).unwrap(), expected, "{claims}");
        }
    }

    #[test]
    fn malformed_scopes_are_refused() {
        for (claims, name) in [
            (json!({"scope": ["a"]}), "scope"),
            (json!({"scope": null}), "scope"),
            (json!({"scope": "a\tb"}), "scope"),
            (json!({"scope": "ädmin"}), "scope"),
            (json!({"scope": "a\u{a0}b"}), "scope"),
            (json!({"scope": "a\"b"}), "scope"),
            (json!({"scp": ["a b"]}), "scp"),
            (json!({"scp": [1]}), "scp"),
            (json!({"scp": {}}), "scp"),
        ] {
            assert_eq!(scopes(&claims), Err(TokenError::Invalid(name)), "{claims}");
        }
    }

    #[test]
    fn membership_is_exact() {
        let scopes = Scopes::of_words(["orders:read", "orders"]).unwrap();
        assert!(scopes.contains("orders") && scopes.contains("orders:read"));
        assert!(!scopes.contains("orders:") && !scopes.contains("ORDERS") && !scopes.contains(""));
    }
}
