//! The values that policies are made of: each is made by parsing, and is right once it exists.
//!
//! Every `FromStr` error is a sentence that says what is wrong and what would be right; the loader
//! puts the place in front.

use std::{fmt, num::NonZeroU64, str::FromStr, sync::Arc, time::Duration};

/// A document's name: a DNS label, as Kubernetes wants it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

/// An amount in a period: `20000/s`, `100/m`, `10Mbit/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    amount: NonZeroU64,
    period: Duration,
}

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

impl Name {
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
        let right = (1..=63).contains(&text.len())
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

impl Rate {
    /// How much, in one [`Self::period`].
    #[must_use]
    pub fn amount(self) -> NonZeroU64 {
        self.amount
    }

    /// In how long.
    #[must_use]
    pub fn period(self) -> Duration {
        self.period
    }

    /// As an amount per second, for comparing.
    #[must_use]
    pub fn per_second(self) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            reason = "for comparing and showing, not for limiting"
        )]
        let amount = self.amount.get() as f64;
        amount / self.period.as_secs_f64()
    }

    /// `amount` in one `period`, which is not zero.
    #[must_use]
    pub fn new(amount: NonZeroU64, period: Duration) -> Option<Self> {
        (!period.is_zero()).then_some(Self { amount, period })
    }
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

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Err(format!("`{text}` is no rate"))
    }
}
