//! The values that policies are made of: each is made by parsing, and is right once it exists.
//!
//! Every `FromStr` error is a sentence that says what is wrong and what would be right; the loader
//! puts the place in front.

use std::{fmt, str::FromStr, sync::Arc};

pub mod cidr;
mod claim;
mod dns;
mod host;
mod interface;
mod literals;
mod path;
mod pattern;
pub mod quantity;
mod rate;
mod spiffe;
mod template;

pub use claim::ClaimPath;
pub use dns::DnsPattern;
pub use host::HostPattern;
pub use interface::InterfacePattern;
pub use literals::misspelt_literal;
pub use path::PathMatch;
pub use path::other_escapes;
pub use pattern::Pattern;
pub use rate::{Rate, Unit};
pub use spiffe::{SpiffePattern, TrustDomain};
pub use template::Template;

/// A document's name: a DNS label, as Kubernetes wants it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// Bytes of the longest (RFC 1123, section 2.1).
    pub const MAX: usize = 63;

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, shared.
    #[must_use]
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let right = (1..=Self::MAX).contains(&text.len())
            && text.chars().all(|c| label(c) || c == '-')
            && text.starts_with(label)
            && text.ends_with(label);
        if right {
            Ok(Self(text.into()))
        } else {
            Err(format!(
                "`{text}` is no name: write 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends"
            ))
        }
    }
}
