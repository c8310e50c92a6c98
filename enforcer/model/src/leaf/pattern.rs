//! Regular expressions.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use regex::bytes::{Captures, Regex, RegexBuilder};

/// The longest expression, in bytes.
const LONGEST: usize = 1024;

/// What an expression may take when it is compiled, and what a worker may keep to match it faster, in bytes.
const LARGEST: usize = 256 << 10;

/// A regular expression that a text matches as a whole, or not at all. It is about ASCII: `\w` is `[0-9A-Za-z_]`.
///
/// Matching takes a time that grows with the text, however the expression is written. Clones share the
/// compiled expression, but not the memory that matching needs: threads that share one would contend for it.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: Arc<str>,
    regex: Regex,
}

impl Pattern {
    /// The expression that is written like this.
    ///
    /// # Errors
    /// A sentence, when it is none, or too large.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!(
                "the expression has {} bytes, and {LONGEST} are the most",
                text.len()
            ));
        }
        // By itself first: `a)|(b` is no expression, and would be one in brackets.
        compiled(text)
            .and_then(|_| compiled(&format!(r"\A(?:{text})\z")))
            .map(|regex| Self {
                text: text.into(),
                regex,
            })
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => format!(
                    "`{text}` takes more than {} KiB when it is compiled: write less repetition",
                    LARGEST >> 10
                ),
                other => {
                    // The last line says what is wrong; those before draw where.
                    let all = other.to_string();
                    let last = all.lines().last().unwrap_or_default();
                    format!(
                        "`{text}` is no regular expression: {}",
                        last.trim_start_matches("error: ")
                    )
                }
            })
    }

    /// Whether the whole text is like this.
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        self.regex.is_match(text)
    }

    /// The parts of a text that is like this.
    #[must_use]
    pub fn captures<'t>(&self, text: &'t [u8]) -> Option<Captures<'t>> {
        self.regex.captures(text)
    }

    /// How many groups there are, the whole text being the first.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.regex.captures_len()
    }
}

fn compiled(text: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(text)
        .unicode(false)
        .size_limit(LARGEST)
        .dfa_size_limit(LARGEST)
        .build()
}

/// As it is written.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_text_is_meant() {
        let pattern = Pattern::new("/v[0-9]+|/w").unwrap();
        for (text, expected) in [
            ("/v12", true),
            ("/w", true),
            ("/v12/x", false),
            ("x/w", false),
            ("/v1\n", false),
        ] {
            assert_eq!(pattern.matches(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_expression_or_too_large_is_refused() {
        for (text, fragment) in [
            ("a)|(b", "unopened group"),
            ("(", "unclosed group"),
            ("[z-a]", "invalid"),
            (r"(a)\1", "backreferences are not supported"),
            ("(?x)a # b", "unclosed group"),
            ("((a{100}){100}){100}", "more than 256 KiB"),
        ] {
            let error = Pattern::new(text).unwrap_err();
            assert!(error.contains(fragment), "{text}: {error}");
            assert!(!error.contains('\n'), "{text}: {error}");
        }
        assert!(Pattern::new(&"a".repeat(LONGEST)).is_ok());
        assert!(Pattern::new(&"a".repeat(LONGEST + 1)).is_err());
    }
}
