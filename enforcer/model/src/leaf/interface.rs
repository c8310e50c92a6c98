//! Names and patterns of network interfaces.

use std::{fmt, str::FromStr, sync::Arc};

/// An interface's name or a pattern with `*`: `eth0`, `veth*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InterfacePattern(Arc<str>);

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

impl fmt::Display for InterfacePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns() {
        let matches =
            |pattern: &str, interface: &str| pattern.parse::<InterfacePattern>().unwrap().matches(interface);
        assert!(matches("veth*", "veth") && matches("veth*", "veth12ab") && matches("*", "lo"));
        assert!(matches("e*0*1", "eth0v1") && matches("eth0", "eth0"));
        assert!(!matches("eth0", "eth01") && !matches("veth*", "eth0") && !matches("e*0*1", "eth1v0"));
        for bad in ["", "a/b", "a:b", "a b", "sixteen-letters-", ".", ".."] {
            assert!(bad.parse::<InterfacePattern>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn shown_patterns_are_read_back(text in "[a-z*][a-z0-9*.-]{0,13}") {
            let pattern: InterfacePattern = text.parse().unwrap();
            prop_assert_eq!(pattern.to_string().parse(), Ok(pattern));
        }

        #[test]
        fn a_star_matches_whatever_is_put_in_its_place(front in "[a-z]{0,4}", put in "[a-z]{0,4}", end in "[a-z]{0,4}") {
            let (pattern, interface) = (format!("{front}*{end}"), format!("{front}{put}{end}"));
            prop_assert!(pattern.parse::<InterfacePattern>().unwrap().matches(&interface));
        }
    }
}
