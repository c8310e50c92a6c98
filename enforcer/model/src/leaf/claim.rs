//! Where a claim stands in a token.

use std::{fmt, str::FromStr, sync::Arc};

use serde_json::{Map, Value};

/// The longest path, in bytes.
const LONGEST: usize = 256;
/// The most names of a path.
const DEEPEST: usize = 8;

/// The names that lead to a claim, outermost first: `realm_access.roles` is `roles` in `realm_access`.
///
/// Written with dots between names, as a JSON pointer (RFC 6901) if it begins with `/`, or as one name if it
/// is a URI, as OpenID Connect calls claims that others have defined (Core 1.0, section 5.1.2).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClaimPath(Arc<[Box<str>]>);

impl ClaimPath {
    /// The path of these names; at least one.
    #[must_use]
    pub fn of(names: Vec<Box<str>>) -> Self {
        Self(names.into())
    }

    /// The names, outermost first; at least one.
    #[must_use]
    pub fn names(&self) -> &[Box<str>] {
        &self.0
    }

    /// The claim, if a token has it.
    #[must_use]
    pub fn find<'a>(&self, claims: &'a Map<String, Value>) -> Option<&'a Value> {
        let (first, rest) = self.0.split_first()?;
        rest.iter().try_fold(claims.get(&**first)?, |value, name| {
            value.as_object()?.get(&**name)
        })
    }
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

impl FromStr for ClaimPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > LONGEST || text.chars().any(char::is_control) {
            return Err(format!("`{text}` is no claim: write 1 to {LONGEST} characters"));
        }
        let names: Vec<Box<str>> =
            if let Some(pointer) = text.strip_prefix('/') {
                pointer.split('/').map(unescaped).collect::<Option<_>>().ok_or_else(|| {
                format!("`{text}` is no JSON pointer (RFC 6901): `~` is written `~0`, and `/` in a name `~1`")
            })?
            } else if text.contains("://") {
                vec![text.into()]
            } else {
                text.split('.').map(Box::from).collect()
            };
        if names.iter().any(|name| name.is_empty()) {
            return Err(format!(
                "`{text}` has an empty name: write it like realm_access.roles"
            ));
        }
        if names.len() > DEEPEST {
            return Err(format!("`{text}` has more than {DEEPEST} names"));
        }
        Ok(Self::of(names))
    }
}

/// RFC 6901, section 4. `None`: an escape that is none.
fn unescaped(name: &str) -> Option<Box<str>> {
    let mut parts = name.split('~');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = match part.split_at_checked(1)? {
            ("0", rest) => {
                text.push('~');
                rest
            }
            ("1", rest) => {
                text.push('/');
                rest
            }
            _ => return None,
        };
        text.push_str(rest);
    }
    Some(text.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_are_found_by_their_names() {
        let claims = json!({
            "a": {"b": {"c": 1}, "x.y": 2},
            "https://example.com/roles": 3,
            "m~n": {"/": 4},
            "text": "x",
        });
        let find = |path: &str| {
            let path: ClaimPath = path.parse().unwrap();
            path.find(claims.as_object().unwrap()).and_then(Value::as_i64)
        };
        for (path, found) in [
            ("a.b.c", Some(1)),
            ("/a/b/c", Some(1)),
            ("/a/x.y", Some(2)),
            ("a.x.y", None),
            ("https://example.com/roles", Some(3)),
            ("/https:~1~1example.com~1roles", Some(3)),
            ("/m~0n/~1", Some(4)),
            ("a.b.c.d", None),
            ("text.length", None),
            ("b", None),
        ] {
            assert_eq!(find(path), found, "{path}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        let deep = "a.".repeat(8) + "a";
        let long = "a".repeat(257);
        for text in [
            "", "a..b", ".a", "a.", "/", "/a~", "/a~2", "/a//b", "a\n", &deep, &long,
        ] {
            assert!(text.parse::<ClaimPath>().is_err(), "{text}");
        }
    }
}
