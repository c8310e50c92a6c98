//! A YAML document as a tree whose keys and values know their line and column.

use std::{cell::Cell, fmt};

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{MessageFormatter, Spanned, UserMessageFormatter, budget::Budget};

use crate::problem::{echo, echoing};

/// The most documents in one file.
pub const MAX_DOCUMENTS: usize = 10_000;

/// How deep a document may nest.
const MAX_DEPTH: usize = 32;

/// The most events that aliases may add to one file: enough for shared lists, not for bombs.
const MAX_ALIAS_EVENTS: usize = 100_000;

/// A place in a file, both from 1. Zero: unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: u64,
    pub column: u64,
}

/// A value, and where it begins.
#[derive(Debug)]
pub struct Node {
    pub position: Position,
    pub value: Value,
    /// A mistake in it has been reported: readers treat it as absent, and nobody misses it.
    pub broken: Cell<bool>,
}

/// What a node is.
#[derive(Debug)]
pub enum Value {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One entry of a mapping.
#[derive(Debug)]
pub struct Entry {
    pub key: String,
    pub key_position: Position,
    pub node: Node,
    /// The field that a misspelt key most likely means.
    pub meant: Cell<Option<&'static str>>,
}

/// Why a file is no YAML.
#[derive(Debug)]
pub struct SyntaxError {
    pub position: Position,
    pub message: String,
    /// It is too much of it, so that nothing more is to be spent on it.
    excessive: bool,
}

/// The documents of a file. When one of them is no YAML: those before it, and the error.
pub fn parse(text: &str) -> (Vec<Node>, Option<SyntaxError>) {
    match parse_all(text) {
        Ok(nodes) => (nodes, None),
        Err(error) => {
            let head = before(text, error.position.line).filter(|_| !error.excessive);
            let nodes = head.and_then(|head| parse_all(head).ok());
            (nodes.unwrap_or_default(), Some(error))
        }
    }
}

/// The text up to the last mark between documents above a line.
fn before(text: &str, line: u64) -> Option<&str> {
    let lines = usize::try_from(line.checked_sub(1)?).ok()?;
    let ends = text.match_indices('\n').map(|(end, _)| end + 1);
    std::iter::once(0)
        .chain(ends)
        .take(lines)
        .filter(|start| text[*start..].starts_with("---"))
        .last()
        .map(|start| &text[..start])
}

fn parse_all(text: &str) -> Result<Vec<Node>, SyntaxError> {
    let mut budget = Budget::default();
    budget.max_documents = MAX_DOCUMENTS;
    budget.max_depth = MAX_DEPTH;
    let mut options = serde_saphyr::options! {
        budget: Some(budget),
        strict_booleans: true,
        with_snippet: false,
    };
    options.alias_limits.max_total_replayed_events = MAX_ALIAS_EVENTS;
    serde_saphyr::from_multiple_with_options::<Spanned<Value>>(text, options)
        .map(|documents| documents.into_iter().map(Node::from).collect())
        .map_err(|error| {
            let position = error.location().map(Position::from).unwrap_or_default();
            let message = UserMessageFormatter
                .format_message(error.without_snippet())
                .into_owned();
            let excessive = matches!(error.without_snippet(), serde_saphyr::Error::Budget { .. });
            SyntaxError {
                position,
                message: echoing(&message),
                excessive,
            }
        })
}

impl Node {
    /// The entry of that key, if this is a mapping that has it.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// The entries of a mapping; of anything else none.
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The value in words, for "found …".
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(value) => format!("the truth value `{value}`"),
            Value::Unsigned(value) => format!("the number `{value}`"),
            Value::Signed(value) => format!("the number `{value}`"),
            Value::Float(value) => format!("the number `{value}`"),
            // A file that is no policy is one text; no more of it is told than helps to find it.
            Value::Text(text) => format!("the text `{}`", echo(&text.replace('`', "'"))),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        }
    }
}

impl From<Spanned<Value>> for Node {
    fn from(spanned: Spanned<Value>) -> Self {
        Self {
            position: spanned.referenced.into(),
            value: spanned.value,
            broken: Cell::new(false),
        }
    }
}

impl From<serde_saphyr::Location> for Position {
    fn from(location: serde_saphyr::Location) -> Self {
        Self {
            line: location.line(),
            column: location.column(),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(u64::try_from(value).map_or(Value::Signed(value), Value::Unsigned))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = list.next_element::<Spanned<Value>>()? {
            nodes.push(node.into());
        }
        Ok(Value::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let key_position = key.referenced.into();
            let mut node: Node = map.next_value::<Spanned<Value>>()?.into();
            // Nothing stands nowhere: its key is what can be pointed at.
            if matches!(node.value, Value::Null) {
                node.position = key_position;
            }
            entries.push(Entry {
                key: key.value,
                key_position,
                node,
                meant: Cell::new(None),
            });
        }
        Ok(Value::Map(entries))
    }
}
