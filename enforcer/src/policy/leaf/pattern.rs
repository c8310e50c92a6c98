//! Patterns of interfaces, hosts, paths and identities.

use std::{fmt, str::FromStr, sync::Arc};

/// An interface's name or a pattern with `*`: `eth0`, `veth*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InterfacePattern(Arc<str>);

/// A host name, or `*.` and a suffix that at least one label precedes, or `*`. Lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// Exactly this.
    Exact(Arc<str>),
    /// Any name that ends in `.` and this.
    Suffix(Arc<str>),
    /// Any.
    Any,
}

/// What a path must be. Paths are compared after normalisation, by segment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathMatch {
    /// Exactly this.
    Exact(Arc<str>),
    /// This, or this and `/` and more. Without a trailing slash, except `/` itself.
    Prefix(Arc<str>),
}

/// A SPIFFE identity, or one that ends in `/*` and stands for all below it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SpiffePattern {
    exact_or_parent: Arc<str>,
    below: bool,
}

impl InterfacePattern {
    /// Whether `interface` is meant.
    #[must_use]
    pub fn matches(&self, interface: &str) -> bool {
        glob(self.0.as_bytes(), interface.as_bytes())
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The interface, unless this is a pattern of several.
    #[must_use]
    pub fn exact(&self) -> Option<&str> {
        (!self.0.contains('*')).then_some(&*self.0)
    }
}

impl FromStr for InterfacePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The kernel's IFNAMSIZ is 16 with the closing NUL; dev_valid_name forbids `/`, `:` and spaces.
        let valid = (1..=15).contains(&text.len())
            && !matches!(text, "." | "..")
            && text
                .chars()
                .all(|c| c.is_ascii_graphic() && !matches!(c, '/' | ':'));
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(format!(
                "`{text}` is no interface name: write 1 to 15 printable characters without / or :, `*` stands for any"
            ))
        }
    }
}

/// Linear-time matching of `*` against any run of bytes.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star, mut resume) = (0, 0, None, 0);
    while t < text.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            star = Some(p);
            resume = t;
            p += 1;
        } else if p < pattern.len() && pattern[p] == text[t] {
            p += 1;
            t += 1;
        } else if let Some(at) = star {
            p = at + 1;
            resume += 1;
            t = resume;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

impl HostPattern {
    /// Whether `host`, in lower case and without port, is meant.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => **name == *host,
            Self::Suffix(suffix) => host
                .strip_suffix(&**suffix)
                .and_then(|front| front.strip_suffix('.'))
                .is_some_and(|front| !front.is_empty()),
            Self::Any => true,
        }
    }
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
        }
    }
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

impl fmt::Display for InterfacePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(suffix) => write!(f, "*.{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

impl FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        if lower == "*" {
            return Ok(Self::Any);
        }
        let (suffix, name) = match lower.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, &*lower),
        };
        check_host(name).map_err(|why| {
            format!("`{text}` {why}: write a name like api.example.com, *.example.com or *")
        })?;
        Ok(if suffix {
            Self::Suffix(name.into())
        } else {
            Self::Exact(name.into())
        })
    }
}

/// Why `name` is neither a DNS name nor an address.
fn check_host(name: &str) -> Result<(), &'static str> {
    if name.contains("://") || name.contains('/') {
        return Err("is more than a host");
    }
    if name.parse::<std::net::Ipv4Addr>().is_ok() {
        return Ok(());
    }
    if let Some(inner) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inner
            .parse::<std::net::Ipv6Addr>()
            .map(drop)
            .map_err(|_| "is no IPv6 address");
    }
    if name.contains(':') {
        return Err("has a port, and routes match any");
    }
    if name.contains('*') {
        return Err("has a `*` elsewhere than as its first label");
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() <= 253 && name.split('.').all(label) {
        Ok(())
    } else {
        Err("is no host name")
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
        }
    }
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
    if let Some(c) = text.chars().find(|c| !c.is_ascii_graphic()) {
        return Err(format!(
            "`{text}` has {c:?} in it, which a path writes percent-encoded"
        ));
    }
    if text.contains('*') {
        return Err(format!(
            "`{text}` has a `*`, which is no wildcard in paths: use `prefix`"
        ));
    }
    if text.contains("//") || text.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err(format!(
            "`{text}` has an empty, `.` or `..` segment and would never match: paths are normalised first"
        ));
    }
    Ok(())
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
    fn hosts() {
        assert_eq!(
            "API.example.com".parse(),
            Ok(HostPattern::Exact("api.example.com".into()))
        );
        assert_eq!(
            "*.example.com".parse(),
            Ok(HostPattern::Suffix("example.com".into()))
        );
        assert_eq!("[::1]".parse(), Ok(HostPattern::Exact("[::1]".into())));
        for bad in [
            "", "a..b", "*.*", "a*.com", "http://a", "a:80", "-a", "*.", "a b", "[::g]",
        ] {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad}");
        }
        let any: HostPattern = "*.example.com".parse().unwrap();
        assert!(any.matches("a.example.com") && !any.matches("example.com") && !any.matches("aexample.com"));
    }

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
        assert!(PathMatch::prefix("/v1").unwrap().matches("/v1/a"));
        assert!(!PathMatch::prefix("/v1").unwrap().matches("/v10"));
    }

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
        fn shown_hosts_are_read_back(text in "(\\*\\.)?[a-z0-9]{1,9}(\\.[a-z0-9]{1,9}){0,3}") {
            let host: HostPattern = text.parse().unwrap();
            prop_assert_eq!(host.to_string().parse(), Ok(host));
        }

        #[test]
        fn shown_identities_are_read_back(text in "spiffe://[a-z.]{1,9}(/[a-zA-Z0-9]{1,5}){0,3}(/\\*)?") {
            let identity: SpiffePattern = text.parse().unwrap();
            prop_assert_eq!(identity.to_string(), text);
        }

        #[test]
        fn a_prefix_matches_itself_and_what_is_below(path in "(/[a-z0-9]{1,5}){1,4}", more in "(/[a-z]{1,3}){0,2}") {
            let prefix = PathMatch::prefix(&path).unwrap();
            let (below, beside) = (format!("{path}{more}"), format!("{path}x"));
            prop_assert!(prefix.matches(&below));
            prop_assert!(!prefix.matches(&beside));
        }
    }
}
