//! Identities of workloads (SPIFFE).

use std::{fmt, str::FromStr, sync::Arc};

/// A SPIFFE identity, or one that ends in `/*` and stands for all below it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SpiffePattern {
    exact_or_parent: Arc<str>,
    below: bool,
}

impl SpiffePattern {
    /// Whether the identity is meant.
    #[must_use]
    pub fn matches(&self, identity: &str) -> bool {
        if !self.below {
            return *self.exact_or_parent == *identity;
        }
        identity
            .strip_prefix(&*self.exact_or_parent)
            .and_then(|rest| rest.strip_prefix('/'))
            .is_some_and(|rest| !rest.is_empty())
    }
}

/// The trust domain of SPIFFE identities.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Whether the identity belongs to it.
    #[must_use]
    pub fn has(&self, identity: &str) -> bool {
        let rest = identity.strip_prefix("spiffe://");
        let rest = rest.and_then(|rest| rest.strip_prefix(&*self.0));
        rest.is_some_and(|rest| rest.starts_with('/'))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = String;

    /// SPIFFE-ID, section 2.1.
    fn from_str(text: &str) -> Result<Self, String> {
        let is_part = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
        if (1..=255).contains(&text.len()) && text.bytes().all(is_part) {
            return Ok(Self(text.into()));
        }
        Err(format!(
            "`{text}` is no trust domain: write it like example.com, in lower case and without spiffe://"
        ))
    }
}

impl fmt::Display for SpiffePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}{}",
            self.exact_or_parent,
            if self.below { "/*" } else { "" }
        )
    }
}

impl FromStr for SpiffePattern {
    type Err = String;

    /// SPIFFE-ID, sections 2.1 to 2.3: a trust domain of lower-case letters, digits, `.`, `-`, `_`, and
    /// path segments of letters, digits and the same.
    fn from_str(text: &str) -> Result<Self, String> {
        let example = "spiffe://example.com/ns/shop/sa/orders, or end it in /* for all below";
        let Some(rest) = text.strip_prefix("spiffe://") else {
            return Err(format!("`{text}` is no SPIFFE identity: write {example}"));
        };
        let (front, below) = match rest.strip_suffix("/*") {
            Some(front) => (front, true),
            None => (rest, false),
        };
        if front.contains('*') {
            return Err(format!(
                "`{text}` has a `*` elsewhere than as its last segment: write {example}"
            ));
        }
        let mut segments = front.split('/');
        let domain = segments.next().unwrap_or_default();
        let special = |c: char| matches!(c, '.' | '-' | '_');
        if domain.is_empty()
            || !domain
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || special(c))
        {
            return Err(format!(
                "`{text}` has no valid trust domain (lower case): write {example}"
            ));
        }
        let valid = |segment: &str| {
            !matches!(segment, "" | "." | "..")
                && segment.chars().all(|c| c.is_ascii_alphanumeric() || special(c))
        };
        if !segments.all(valid) || text.len() > 2048 {
            return Err(format!("`{text}` has an invalid path segment: write {example}"));
        }
        Ok(Self {
            exact_or_parent: format!("spiffe://{front}").into(),
            below,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn identities() {
        let below: SpiffePattern = "spiffe://example.com/ns/shop/*".parse().unwrap();
        assert!(below.matches("spiffe://example.com/ns/shop/sa/orders"));
        assert!(
            !below.matches("spiffe://example.com/ns/shop")
                && !below.matches("spiffe://example.com/ns/shopping/a")
        );
        for bad in [
            "",
            "https://a",
            "spiffe://",
            "spiffe://A/b",
            "spiffe://a//b",
            "spiffe://a/*/b",
            "spiffe://a/b/",
            "spiffe://a/..",
        ] {
            assert!(bad.parse::<SpiffePattern>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn shown_identities_are_read_back(text in "spiffe://[a-z.]{1,9}(/[a-zA-Z0-9]{1,5}){0,3}(/\\*)?") {
            let identity: SpiffePattern = text.parse().unwrap();
            prop_assert_eq!(identity.to_string(), text);
        }
    }
}
