//! Names of client certificates.

use std::{fmt, str::FromStr};

use super::HostPattern;

/// A DNS name, or `*.` and a name that exactly one label precedes (as RFC 6125, section 6.4.3, has it).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DnsPattern(HostPattern);

impl DnsPattern {
    /// Whether a certificate's name is meant; upper and lower case are the same. A name that is itself a pattern
    /// never is: nobody is called `*`.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match &self.0 {
            HostPattern::Exact(exact) => exact.eq_ignore_ascii_case(name),
            HostPattern::Suffix(suffix) => name.split_once('.').is_some_and(|(label, rest)| {
                !label.is_empty() && !label.contains('*') && suffix.eq_ignore_ascii_case(rest)
            }),
            HostPattern::Any => false,
        }
    }
}

impl fmt::Display for DnsPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for DnsPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        if text == "*" || bare.parse::<std::net::IpAddr>().is_ok() {
            return Err(format!(
                "`{text}` is no DNS name: write it like cart.example.com or *.example.com"
            ));
        }
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_one_label() {
        let matches = |pattern: &str, name: &str| pattern.parse::<DnsPattern>().unwrap().matches(name);
        for (pattern, name, expected) in [
            ("cart.example.com", "cart.example.com", true),
            ("Cart.example.com", "CART.Example.com", true),
            ("cart.example.com", "cart.example.com.", false),
            ("cart.example.com", "*.example.com", false),
            ("*.example.com", "cart.example.com", true),
            ("*.example.com", "a.cart.example.com", false),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("*.example.com", "*.example.com", false),
            ("*.example.com", "cart.example.org", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
        for wrong in ["*", "", "10.0.0.1", "[::1]", "a.*.com", "https://a", "a:1"] {
            assert!(wrong.parse::<DnsPattern>().is_err(), "{wrong}");
        }
    }
}
