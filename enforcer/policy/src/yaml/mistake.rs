//! What does not fit a structure, in words, and which word was probably meant.

use std::{cmp::Reverse, fmt};

use serde::de::{self, Expected, Unexpected};

use super::tree::{Node, Position, Value};

/// Fields of a Service that are looked for in rules.
const OF_SERVICES: [&str; 7] = [
    "balance",
    "connectTimeout",
    "endpoints",
    "health",
    "outliers",
    "protocol",
    "retries",
];

/// The candidate nearest to `word`, if it is near enough to be what was meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(similarity, _)| *similarity >= 0.8)
        .max_by(|(a, x), (b, y)| a.total_cmp(b).then(Reverse(x).cmp(&Reverse(y))))
        .map(|(_, candidate)| candidate)
}

/// "a, b or c".
pub fn alternatives<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let mut words: Vec<&str> = words.into_iter().collect();
    match words.pop() {
        None => "nothing".to_owned(),
        Some(only) if words.is_empty() => only.to_owned(),
        Some(last) => format!("{} or {last}", words.join(", ")),
    }
}

/// What does not fit, and once it has left the node that is wrong, where.
#[derive(Debug)]
pub struct Mistake {
    pub(super) message: String,
    pub(super) hint: Option<String>,
    /// The field that a misspelt one most likely means.
    pub(super) meant: Option<&'static str>,
    pub(super) position: Option<Position>,
    pub(super) path: String,
}

impl std::error::Error for Mistake {}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Mistake {
    pub(super) fn new(message: String, hint: Option<String>) -> Self {
        Self {
            message,
            hint,
            meant: None,
            position: None,
            path: String::new(),
        }
    }

    /// The mistake as seen from the mapping or list around `node`, which `step` leads to.
    pub(super) fn in_child(mut self, node: &Node, position: Position, step: &str) -> Self {
        if self.position.is_none() {
            self.position = Some(position);
            node.broken.set(true);
        }
        let separator = if self.path.is_empty() || self.path.starts_with('[') {
            ""
        } else {
            "."
        };
        self.path = format!("{step}{separator}{}", self.path);
        self
    }
}

impl de::Error for Mistake {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string(), None)
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found = match unexpected {
            Unexpected::Unit | Unexpected::Option => "nothing".to_owned(),
            Unexpected::Bool(value) => format!("the truth value `{value}`"),
            Unexpected::Unsigned(value) => format!("the number `{value}`"),
            Unexpected::Signed(value) => format!("the number `{value}`"),
            Unexpected::Float(value) => format!("the number `{value}`"),
            Unexpected::Str(text) => format!("the text `{text}`"),
            Unexpected::Seq => "a list".to_owned(),
            Unexpected::Map => "a mapping".to_owned(),
            other => other.to_string(),
        };
        Self::new(format!("expected {expected}, found {found}"), None)
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        if variant.starts_with('/') && expected.contains(&"exact") {
            let hint = format!(
                "write `{{exact: {variant}}}` for this path alone, or `{{prefix: {variant}}}` for all below it too"
            );
            return Self::new(
                "`path` says how paths are matched, not the path alone".to_owned(),
                Some(hint),
            );
        }
        let listed = alternatives(expected.iter().copied());
        match nearest(variant, expected.iter().copied()) {
            Some(near) => Self::new(
                format!("`{variant}` is not known here; it is one of {listed}"),
                Some(format!("did you mean `{near}`?")),
            ),
            None => Self::new(
                format!("`{variant}` is not known here"),
                Some(format!("write {listed}")),
            ),
        }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        if OF_SERVICES.contains(&field) && expected.contains(&"require") {
            let hint = format!("`{field}` belongs to the Service that the rule leads to");
            return Self::new(format!("a rule has no field `{field}`"), Some(hint));
        }
        let meant = nearest(field, expected.iter().copied());
        let hint = match meant {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the fields here are {}", alternatives(expected.iter().copied())),
        };
        Self {
            meant,
            ..Self::new(format!("there is no field `{field}`"), Some(hint))
        }
    }
}

/// "found …" for a node of the wrong kind.
pub(super) fn misfit(node: &Node, expected: &dyn Expected) -> Mistake {
    let hint = match &node.value {
        Value::Null => Some("write a value, or leave the field out".to_owned()),
        Value::Bool(_) | Value::Unsigned(_) | Value::Signed(_) | Value::Float(_)
            if expected.to_string().contains("string") =>
        {
            Some("put it in quotes".to_owned())
        }
        _ => None,
    };
    let expected = match expected.to_string() {
        text if text.contains("string") => "text".to_owned(),
        text if text.starts_with("struct ") || text.contains("map") => "a mapping".to_owned(),
        text if text.contains("sequence") => "a list".to_owned(),
        text if text == "a boolean" => "true or false".to_owned(),
        text if text.starts_with('u') => "a whole number".to_owned(),
        text => text,
    };
    Mistake::new(format!("expected {expected}, found {}", node.describe()), hint)
}
