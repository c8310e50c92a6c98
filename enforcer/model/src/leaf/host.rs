//! Names and patterns of hosts.

use std::{fmt, str::FromStr, sync::Arc};

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

    proptest! {
        #[test]
        fn shown_hosts_are_read_back(text in "(\\*\\.)?[a-z0-9]{1,9}(\\.[a-z0-9]{1,9}){0,3}") {
            let host: HostPattern = text.parse().unwrap();
            prop_assert_eq!(host.to_string().parse(), Ok(host));
        }
    }
}
