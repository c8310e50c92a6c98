//! What is wrong with a file: where, what, and what would be right.

use std::{
    fmt,
    io::{self, Write},
    path::PathBuf,
};

use serde::Serialize;

/// The most problems that one load reports; the rest are counted.
pub const MAX_PROBLEMS: usize = 1000;

/// How much of a source line is shown, in characters.
const SHOWN_LINE: usize = 160;

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file cannot come into force.
    Error,
    /// It can, and probably does not do what was meant.
    Warning,
    /// An error, though earlier versions took it: for one release the agent warns and takes it still. `check`
    /// reports it as an error.
    Outdated,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub severity: Severity,
    /// The file, as the operator named it.
    pub file: PathBuf,
    /// From 1; zero when the file as a whole is meant.
    pub line: u64,
    /// From 1, in characters; zero when the file as a whole is meant.
    pub column: u64,
    /// The field: `spec.limits[0].rate`. Empty when there is none.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The line that is meant, or its beginning; nothing when the column is beyond that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// Everything that is wrong with a set of files: at least one error, and perhaps warnings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl std::error::Error for Problems {}

impl Problems {
    /// The problems in order of place, or `None` if none of them is an error.
    pub fn of(problems: &[Problem]) -> Option<Self> {
        problems
            .iter()
            .any(|problem| problem.severity == Severity::Error)
            .then(|| Self(problems.to_vec()))
    }

    /// The problems, in order of file and line.
    #[must_use]
    pub fn as_slice(&self) -> &[Problem] {
        &self.0
    }

    /// The problems, in order of file and line.
    #[must_use]
    pub fn into_vec(self) -> Vec<Problem> {
        self.0
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(&Palette::PLAIN, ECHOED))
    }
}

impl Problem {
    /// A problem of a file as a whole, such as one that cannot be read.
    pub fn of_file(file: impl Into<PathBuf>, message: String, hint: Option<String>) -> Self {
        Self {
            severity: Severity::Error,
            file: file.into(),
            line: 0,
            column: 0,
            path: String::new(),
            message,
            hint,
            source: None,
        }
    }

    /// Writes the problem for people: place and message, the line with a caret, the hint.
    pub fn print(&self, out: &mut impl Write, color: bool) -> io::Result<()> {
        let palette = if color { &Palette::COLOR } else { &Palette::PLAIN };
        writeln!(out, "{}", self.render(palette, SHOWN_LINE))
    }

    /// With up to `shown` characters of the line.
    fn render(&self, palette: &Palette, shown: usize) -> String {
        let Palette {
            bold, help, reset, ..
        } = palette;
        let (severity, paint) = match self.severity {
            Severity::Error => ("error", palette.error),
            Severity::Warning | Severity::Outdated => ("warning", palette.warning),
        };
        let mut text = format!("{bold}{}", printable(&self.file.display().to_string()));
        if self.line > 0 {
            text += &format!(":{}:{}", self.line, self.column);
        }
        text += &format!(": {paint}{severity}{reset}: ");
        if !self.path.is_empty() {
            text += &format!("{bold}{}{reset}: ", printable(&self.path));
        }
        text += &printable(&self.message);
        if let Some(source) = &self.source {
            text += &excerpt(source, (self.line, self.column), shown, paint, reset);
        }
        if let Some(hint) = &self.hint {
            text += &format!("\n  {help}help{reset}: {}", printable(hint));
        }
        text
    }
}

/// What a problem may say of a file's contents where strangers may read it, in characters: the log and the agent's
/// status. A file that policies lead to need not be a policy; it may be a secret.
const ECHOED: usize = 32;

/// The beginning of a text of a file's, as messages may repeat it.
pub fn echo(text: &str) -> String {
    match text.char_indices().nth(ECHOED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A message of which each part in backticks, which may be a file's, is no longer than may be repeated.
pub fn echoing(message: &str) -> String {
    let parts = message.split('`').enumerate();
    let parts = parts.map(|(index, part)| {
        if index % 2 == 1 {
            echo(part)
        } else {
            part.to_owned()
        }
    });
    parts.collect::<Vec<_>>().join("`")
}

/// The line with a caret under the column, both cut to so many characters.
fn excerpt(source: &str, (line, column): (u64, u64), most: usize, paint: &str, reset: &str) -> String {
    let number = line.to_string();
    let column = usize::try_from(column).unwrap_or(usize::MAX).max(1) - 1;
    let start = if column < most { 0 } else { column - most / 2 };
    let shown: String = source.chars().skip(start).take(most).collect();
    // Tabs stay tabs, so that the caret stands where the terminal puts the character.
    let indent: String = shown
        .chars()
        .take(column - start)
        .map(|c| if c == '\t' { '\t' } else { ' ' })
        .collect();
    let margin = " ".repeat(number.len());
    format!(
        "\n {number} | {}\n {margin} | {indent}{paint}^{reset}",
        printable(&shown)
    )
}

/// The text without control characters: files that strangers wrote must not steer a terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

/// Terminal escapes, or nothing.
struct Palette {
    bold: &'static str,
    error: &'static str,
    warning: &'static str,
    help: &'static str,
    reset: &'static str,
}

impl Palette {
    const PLAIN: Self = Self {
        bold: "",
        error: "",
        warning: "",
        help: "",
        reset: "",
    };
    const COLOR: Self = Self {
        bold: "\x1b[1m",
        error: "\x1b[1;31m",
        warning: "\x1b[1;33m",
        help: "\x1b[1;36m",
        reset: "\x1b[0m",
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem() -> Problem {
        Problem {
            severity: Severity::Error,
            file: "policies/edge.yaml".into(),
            line: 12,
            column: 13,
            path: "spec.limits[0].rate".into(),
            message: "zero".into(),
            hint: Some("leave it out".into()),
            source: Some("      rate: 0/s".into()),
        }
    }

    #[test]
    fn shows_place_line_caret_and_help() {
        let expected = [
            "policies/edge.yaml:12:13: error: spec.limits[0].rate: zero",
            " 12 |       rate: 0/s",
            "    |             ^",
            "  help: leave it out",
        ];
        assert_eq!(problem().to_string(), expected.join("\n"));
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let mut evil = problem();
        evil.message = "\x1b[2J".into();
        evil.source = Some("\x1b]0;owned\x07".into());
        assert!(!evil.to_string().contains('\x1b'));
        assert!(!evil.to_string().contains('\x07'));
    }

    #[test]
    fn l9_no_more_of_a_file_is_told_than_a_beginning() {
        let secret: String = ('a'..='z').cycle().take(500).collect();
        let mut told = problem();
        told.source = Some(secret.clone());
        told.message = echoing(&format!("found the text `{secret}`, and `b` is wanted"));
        let longest = |text: &str| {
            let is_told = |length: &usize| {
                secret
                    .as_bytes()
                    .windows(*length)
                    .any(|part| text.contains(str::from_utf8(part).unwrap()))
            };
            (1..200).rev().find(is_told)
        };
        let text = told.to_string();
        assert_eq!(longest(&text), Some(32), "{text}");
        assert!(text.contains("…`, and `b` is wanted"), "{text}");
        // Who checks files is shown the line.
        let mut shown = Vec::new();
        told.print(&mut shown, false).unwrap();
        assert_eq!(longest(str::from_utf8(&shown).unwrap()), Some(SHOWN_LINE));
    }

    #[test]
    fn a_caret_far_to_the_right_is_still_shown() {
        let mut far = problem();
        far.source = Some("x".repeat(500));
        far.column = 400;
        let text = far.to_string();
        assert!(text.contains('^'));
        assert!(text.lines().all(|line| line.len() < 200), "{text}");
    }

    #[test]
    fn json_has_every_field() {
        let json = serde_json::to_value(problem()).unwrap();
        assert_eq!(json["severity"], "error");
        assert_eq!(json["line"], 12);
        assert_eq!(json["path"], "spec.limits[0].rate");
        assert_eq!(json["hint"], "leave it out");
    }
}
