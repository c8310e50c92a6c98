//! What the path of a request must be.

use std::{fmt, sync::Arc};

use super::{Pattern, misspelt_literal};
use enforcer_http_rules::target::{spelling, spelling_of_part};

/// What a path must be. Paths are compared after normalisation, by segment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathMatch {
    /// Exactly this.
    Exact(Arc<str>),
    /// This, or this and `/` and more. Without a trailing slash, except `/` itself.
    Prefix(Arc<str>),
    /// As a whole like this.
    Regex(Pattern),
}

impl PathMatch {
    /// Whether the normalised `path` is meant.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *path,
            Self::Prefix(prefix) if **prefix == *"/" => true,
            Self::Prefix(prefix) => path
                .strip_prefix(&**prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Self::Regex(pattern) => pattern.matches(path.as_bytes()),
        }
    }
}

impl PathMatch {
    /// A path that must be exactly `text`.
    ///
    /// # Errors
    /// A sentence, when requests have no such path after normalisation.
    pub fn exact(text: &str) -> Result<Self, String> {
        check_path(text)?;
        Ok(Self::Exact(text.into()))
    }

    /// A path that must be like `text` as a whole.
    ///
    /// # Errors
    /// A sentence, when `text` is no expression, or wants to find what no path has after normalisation.
    pub fn regex(text: &str) -> Result<Self, String> {
        let pattern = Pattern::new(text)?;
        match misspelt_literal(text) {
            None => Ok(Self::Regex(pattern)),
            Some((literal, right)) => Err(format!(
                "no path has `{literal}` in its normal form, in which paths are matched and forwarded: write `{right}`"
            )),
        }
    }

    /// A path that must be `text` or below it. A slash at the end is left out.
    ///
    /// # Errors
    /// A sentence, when requests have no such path after normalisation.
    pub fn prefix(text: &str) -> Result<Self, String> {
        check_path(text)?;
        let trimmed = text
            .strip_suffix('/')
            .filter(|front| !front.is_empty())
            .unwrap_or(text);
        Ok(Self::Prefix(trimmed.into()))
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => f.write_str(path),
            Self::Prefix(path) if **path == *"/" => f.write_str("/*"),
            Self::Prefix(path) => write!(f, "{path}/*"),
            Self::Regex(pattern) => write!(f, "~{pattern}"),
        }
    }
}

/// The spelling that is right for a path that earlier versions took as it is: other escapes of the same path.
pub fn other_escapes(text: &str) -> Option<String> {
    let right = spelling(text).ok().filter(|right| right != text)?;
    (spelling_of_part(text) == right).then_some(right)
}

/// Paths are matched after normalisation (RFC 3986, 6.2.2), so one that is not normal never matches.
fn check_path(text: &str) -> Result<(), String> {
    if !text.starts_with('/') {
        return Err(format!("`{text}` does not begin with /: write /{text}"));
    }
    if text.contains(['?', '#']) {
        return Err(format!(
            "`{text}` is more than a path: leave out what follows ? or #"
        ));
    }
    if text.contains('*') {
        return Err(format!(
            "`{text}` has a `*`, which is no wildcard in paths: use `prefix`, or `regex` for an asterisk"
        ));
    }
    match spelling(text) {
        Ok(right) if right == text => Ok(()),
        Ok(right) => Err(format!(
            "`{text}` is not in the normal form, in which paths are matched and forwarded, and would never match: write `{right}`"
        )),
        Err(error) => Err(format!("`{text}` has no normal form: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths() {
        assert_eq!(PathMatch::prefix("/v1/"), Ok(PathMatch::Prefix("/v1".into())));
        assert_eq!(PathMatch::prefix("/"), Ok(PathMatch::Prefix("/".into())));
        for bad in [
            "", "v1", "/a?b", "/a#b", "/a/../b", "/./a", "//a", "/a b", "/a/*", "/\u{e9}",
        ] {
            assert!(
                PathMatch::prefix(bad).is_err() && PathMatch::exact(bad).is_err(),
                "{bad}"
            );
        }
        for (wrong, right) in [
            ("/v1/users%3Adelete", "`/v1/users:delete`"),
            ("/%61dmin", "`/admin`"),
            ("/caf%c3%a9", "`/caf%C3%A9`"),
            ("/caf\u{e9}", "`/caf%C3%A9`"),
            ("/users/{id}", "`/users/%7Bid%7D`"),
            ("/a/../b", "`/b`"),
            ("/a%2Fb", "escaped slash"),
            ("/a;b", "`;`"),
        ] {
            let message = PathMatch::exact(wrong).unwrap_err();
            assert!(
                message.contains("normal form") && message.contains(right),
                "{message}"
            );
        }
        for good in ["/v1/users:delete", "/caf%C3%A9", "/a@b,c=d", "/users/%7Bid%7D"] {
            assert!(PathMatch::exact(good).is_ok(), "{good}");
        }
        assert_eq!(
            other_escapes("/v1/users%3Adelete").as_deref(),
            Some("/v1/users:delete")
        );
        for other in ["/v1", "/a/../b", "//a", "/a%2Fb"] {
            assert_eq!(other_escapes(other), None, "{other}");
        }
        assert!(PathMatch::prefix("/v1").unwrap().matches("/v1/a"));
        assert!(!PathMatch::prefix("/v1").unwrap().matches("/v10"));
    }

    proptest! {
        #[test]
        fn a_prefix_matches_itself_and_what_is_below(path in "(/[a-z0-9]{1,5}){1,4}", more in "(/[a-z]{1,3}){0,2}") {
            let prefix = PathMatch::prefix(&path).unwrap();
            let (below, beside) = (format!("{path}{more}"), format!("{path}x"));
            prop_assert!(prefix.matches(&below));
            prop_assert!(!prefix.matches(&beside));
        }
    }
}
