//! Texts with the parts of another in them.

use std::fmt;

use regex::bytes::Captures;

use super::Pattern;

/// The most groups that a template names.
const MAX_GROUPS: usize = 16;

/// A text in which `$1` stands for what a pattern's first group has matched, `$0` for all, and `$$` for `$`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Group(usize),
}

impl Template {
    /// The template that is written like this, for `pattern`.
    ///
    /// # Errors
    /// A sentence, when it names a group that the pattern has not.
    pub fn new(text: &str, pattern: &Pattern) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
            rest = &after[end..];
            if end == 0 {
                rest = after
                    .strip_prefix('$')
                    .ok_or_else(|| format!("`{text}` has a `$` before what is no number: write $$"))?;
                pieces.push(Piece::Text("$".to_owned()));
                continue;
            }
            let number = &after[..end];
            match number.parse::<usize>() {
                Ok(group) if group < pattern.groups() => pieces.push(Piece::Group(group)),
                _ => {
                    return Err(format!(
                        "`{text}` names the group {number}, and `{pattern}` has {}",
                        pattern.groups() - 1
                    ));
                }
            }
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        let groups = pieces.iter().filter(|piece| matches!(piece, Piece::Group(_)));
        if groups.count() > MAX_GROUPS {
            return Err(format!("`{text}` names more than {MAX_GROUPS} groups"));
        }
        Ok(Self {
            text: text.to_owned(),
            pieces,
        })
    }

    /// The text for what the pattern has matched. A group without a part in it is nothing.
    #[must_use]
    pub fn expand(&self, captures: &Captures<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Group(group) => {
                    out.extend_from_slice(captures.get(*group).map_or(b"", |found| found.as_bytes()));
                }
            }
        }
        out
    }
}

/// As it is written.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_put_in() {
        let pattern = Pattern::new("/(a+)/(b)?(.*)").unwrap();
        for (text, expected) in [
            ("/$3/$1", "/c/aa"),
            ("$0", "/aa/c"),
            ("/x$2y$$1", "/xy$1"),
            ("/x", "/x"),
        ] {
            let template = Template::new(text, &pattern).unwrap();
            let captures = pattern.captures(b"/aa/c").unwrap();
            assert_eq!(template.expand(&captures), expected.as_bytes(), "{text}");
            assert_eq!(template.to_string(), text);
        }
        for (text, fragment) in [
            ("/$4", "names the group 4"),
            ("/$99999999999999999999", "names the group"),
            ("/$a", "write $$"),
            ("/$", "write $$"),
            (&*"/$1".repeat(17), "more than 16"),
        ] {
            let error = Template::new(text, &pattern).unwrap_err();
            assert!(error.contains(fragment), "{text}: {error}");
        }
    }
}
