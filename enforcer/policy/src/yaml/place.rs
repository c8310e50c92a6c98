//! Walking a tree beside what was read from it, and saying what is wrong where.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::tree::{Node, Position, Value};
use crate::problem::{MAX_PROBLEMS, Problem, Severity, echoing};

/// How much of a line a problem carries, in characters.
const LONGEST_LINE: usize = 512;

/// Collects the problems of one load.
#[derive(Default)]
pub struct Sink {
    problems: RefCell<Vec<Problem>>,
    /// Beyond [`MAX_PROBLEMS`].
    untold: Cell<usize>,
    /// How many of the problems are errors.
    errors: Cell<usize>,
    /// The first value that was refused while no error was known.
    refused: RefCell<Option<Problem>>,
}

/// A file's name and text.
pub struct Source {
    pub file: PathBuf,
    pub text: String,
    /// Where each line begins, in bytes.
    lines: Vec<usize>,
}

/// A node, the path that leads to it, and where its problems go.
#[derive(Clone)]
pub struct Place<'a> {
    node: &'a Node,
    path: String,
    position: Position,
    source: &'a Source,
    sink: &'a Sink,
}

impl Sink {
    /// Takes note of a problem.
    pub fn push(&self, problem: Problem) {
        if problem.severity == Severity::Error {
            self.errors.set(self.errors.get() + 1);
        }
        let mut problems = self.problems.borrow_mut();
        if problems.len() < MAX_PROBLEMS {
            problems.push(problem);
        } else {
            self.untold.set(self.untold.get() + 1);
        }
    }

    /// All problems in order of file and place.
    pub fn into_sorted(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        // Nothing is left out in silence: a deny entry that is not understood would else be none.
        if self.errors.get() == 0 {
            problems.extend(self.refused.into_inner());
        }
        let told = problems
            .iter()
            .filter(|problem| problem.severity == Severity::Error)
            .count();
        problems.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        problems.dedup();
        if let Some(last) = problems.last()
            && self.untold.get() > 0
        {
            let message = format!("{} more problems are not shown", self.untold.get());
            let more = Problem::of_file(last.file.clone(), message, None);
            // An error that is not shown still hinders; more warnings do not.
            let severity = if self.errors.get() > told {
                Severity::Error
            } else {
                Severity::Warning
            };
            problems.push(Problem { severity, ..more });
        }
        problems
    }
}

impl Source {
    pub fn new(file: PathBuf, text: String) -> Self {
        let ends = text.match_indices('\n').map(|(end, _)| end + 1);
        let lines = std::iter::once(0).chain(ends).collect();
        Self { file, text, lines }
    }

    /// The beginning of the line at a position, if the column is in it.
    pub fn line(&self, position: Position) -> Option<String> {
        let index = usize::try_from(position.line.checked_sub(1)?).ok()?;
        let column = usize::try_from(position.column).ok()?;
        let line = self.text.get(*self.lines.get(index)?..)?.lines().next()?;
        (column <= LONGEST_LINE).then(|| line.chars().take(LONGEST_LINE).collect())
    }
}

impl<'a> Place<'a> {
    /// The top of a document.
    pub fn root(node: &'a Node, source: &'a Source, sink: &'a Sink) -> Self {
        Self {
            node,
            path: String::new(),
            position: node.position,
            source,
            sink,
        }
    }

    pub fn node(&self) -> &'a Node {
        self.node
    }

    pub fn file(&self) -> &'a Path {
        &self.source.file
    }

    pub fn position(&self) -> Position {
        self.position
    }

    /// `file:line`, to name this place in a message about another.
    pub fn reference(&self) -> String {
        format!("{}:{}", self.source.file.display(), self.position.line)
    }

    /// A relative path as seen from the file that names it.
    pub fn beside(&self, path: &str) -> PathBuf {
        self.source.file.parent().unwrap_or(Path::new("")).join(path)
    }

    /// The value of a field; while it is absent, a place that points at the mapping.
    pub fn field(&self, key: &str) -> Self {
        let path = if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        };
        match self.node.entry(key) {
            Some(entry) => Self {
                node: &entry.node,
                path,
                position: entry.node.position,
                ..self.clone()
            },
            None => Self { path, ..self.clone() },
        }
    }

    /// Where a character of this text stands in the file, counted from its beginning, if the file says it as it is:
    /// in one line, in quotes or without.
    pub fn inside(&self, text: &str, offset: usize) -> Option<Position> {
        let line = self.source.line(self.position)?;
        let column = usize::try_from(self.position.column.checked_sub(1)?).ok()?;
        let begin = line.char_indices().nth(column).map(|(at, _)| &line[at..])?;
        let shift = if begin.starts_with(text) {
            0
        } else if begin.strip_prefix(['"', '\''])?.starts_with(text) {
            1
        } else {
            return None;
        };
        Some(Position {
            column: self.position.column + u64::try_from(shift + offset).ok()?,
            ..self.position
        })
    }

    /// The elements of a list in the order of what was read from it, which leaves the broken ones
    /// out; anything else is a list of itself.
    pub fn items(&self) -> Vec<Self> {
        let Value::List(nodes) = &self.node.value else {
            return vec![self.clone()];
        };
        nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| !node.broken.get())
            .map(|(index, node)| Self {
                node,
                path: format!("{}[{index}]", self.path),
                position: node.position,
                ..self.clone()
            })
            .collect()
    }

    /// Whether a list without elements is written here; what is broken is an element too.
    pub fn is_empty_list(&self) -> bool {
        matches!(&self.node.value, Value::List(nodes) if nodes.is_empty())
    }

    /// Whether anything at all has been found wrong, here or elsewhere.
    pub fn has_errors(&self) -> bool {
        self.sink.errors.get() > 0
    }

    /// Reports an error here.
    pub fn error(&self, message: impl Into<String>) {
        self.report(Severity::Error, &message.into(), None);
    }

    /// Reports an error here, and what would be right.
    pub fn error_with(&self, message: impl Into<String>, hint: impl Into<String>) {
        self.report(Severity::Error, &message.into(), Some(hint.into()));
    }

    /// Reports a warning here, and what would be right.
    pub fn warning(&self, message: impl Into<String>, hint: impl Into<String>) {
        self.report(Severity::Warning, &message.into(), Some(hint.into()));
    }

    /// Reports what earlier versions took, and later ones will not: an error in `check`, a warning to the agent.
    pub fn outdated(&self, message: impl Into<String>, hint: impl Into<String>) {
        self.report(Severity::Outdated, &message.into(), Some(hint.into()));
    }

    /// Reports an error at a position below here.
    pub fn error_below(
        &self,
        path: &str,
        position: Position,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        let path = match (self.path.is_empty(), path.is_empty() || path.starts_with('[')) {
            (true, _) => path.to_owned(),
            (false, true) => format!("{}{path}", self.path),
            (false, false) => format!("{}.{path}", self.path),
        };
        let below = Self {
            path,
            position,
            ..self.clone()
        };
        below.report(Severity::Error, &message.into(), hint);
    }

    fn report(&self, severity: Severity, message: &str, hint: Option<String>) {
        self.sink.push(self.problem(severity, message, hint));
    }

    /// Passes a judgement on, remembering a refusal that no error explains.
    fn judged<T>(&self, outcome: Option<T>) -> Option<T> {
        if outcome.is_none() && self.sink.errors.get() == 0 {
            let problem = || self.problem(Severity::Error, "this is not understood", None);
            self.sink.refused.borrow_mut().get_or_insert_with(problem);
        }
        outcome
    }

    fn problem(&self, severity: Severity, message: &str, hint: Option<String>) -> Problem {
        Problem {
            severity,
            file: self.source.file.clone(),
            line: self.position.line,
            column: self.position.column,
            path: self.path.clone(),
            message: echoing(message),
            hint,
            source: self.source.line(self.position),
        }
    }

    /// A field that must be there, judged by `read`.
    pub fn required<R, T>(
        &self,
        key: &str,
        raw: Option<R>,
        read: impl FnOnce(R, &Self) -> Option<T>,
    ) -> Option<T> {
        if raw.is_none() && !self.is_excused(key) {
            self.error_below(key, self.position, format!("`{key}` is missing"), None);
        }
        self.optional(key, raw, read)
    }

    /// A field that may be left out, judged by `read`. Once a problem is reported what this returns
    /// no longer matters, so the default may stand for a broken value too.
    pub fn optional<R, T>(
        &self,
        key: &str,
        raw: Option<R>,
        read: impl FnOnce(R, &Self) -> Option<T>,
    ) -> Option<T> {
        raw.and_then(|raw| {
            let at = self.field(key);
            at.judged(read(raw, &at))
        })
    }

    /// The elements of a list field, each judged by `read`.
    pub fn each<R, T>(&self, key: &str, raw: Vec<R>, mut read: impl FnMut((R, Self)) -> Option<T>) -> Vec<T> {
        raw.into_iter()
            .zip(self.field(key).items())
            .filter_map(|(raw, at)| at.clone().judged(read((raw, at))))
            .collect()
    }

    /// Whether somebody has been told about that field already, so that nobody need miss it.
    fn is_excused(&self, key: &str) -> bool {
        self.node
            .entries()
            .iter()
            .any(|entry| (entry.key == key && entry.node.broken.get()) || entry.meant.get() == Some(key))
    }

    /// Whether the field was written, even if what was written is wrong.
    pub fn mentions(&self, key: &str) -> bool {
        self.node.entry(key).is_some() || self.is_excused(key)
    }
}

/// Reads a text by a parser whose errors are sentences.
pub fn parsed<S: AsRef<str>, T>(
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> impl FnOnce(S, &Place<'_>) -> Option<T> {
    move |text, at| parse(text.as_ref()).map_err(|message| at.error(message)).ok()
}

/// Reports each key that was seen before, naming both places.
pub struct Unique<K> {
    seen: BTreeMap<K, String>,
}

impl<K> Default for Unique<K> {
    fn default() -> Self {
        let seen = BTreeMap::new();
        Self { seen }
    }
}

impl<K: Ord> Unique<K> {
    /// Takes note of a key; where it was seen before, reports `message(that place)`.
    pub fn claim(&mut self, key: K, at: &Place<'_>, message: impl FnOnce(&str) -> String) {
        if let Some(first) = self.seen.get(&key) {
            at.error(message(first));
        } else {
            self.seen.insert(key, at.reference());
        }
    }
}
