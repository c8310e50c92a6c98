//! Whether a request has in its header fields and its query what a rule wants.

use std::{borrow::Cow, sync::Arc};

use http::{HeaderMap, HeaderName, header::COOKIE};

use super::router::Asked;
use crate::policy::model::{Condition, Part, Pattern, Test};

/// A condition whose regular expression is one of the router's patterns.
#[derive(Debug)]
pub(super) struct Compiled {
    part: Part,
    test: CompiledTest,
}

#[derive(Debug)]
enum CompiledTest {
    Exact(Arc<str>),
    Prefix(Arc<str>),
    /// The position of the pattern.
    Regex(usize),
    Present(bool),
}

/// Compiles `conditions`; their patterns are put behind `patterns`.
pub(super) fn compile(conditions: &[Condition], patterns: &mut Vec<Pattern>) -> Box<[Compiled]> {
    let mut compile = |condition: &Condition| Compiled {
        part: condition.part.clone(),
        test: match &condition.test {
            Test::Exact(text) => CompiledTest::Exact(Arc::clone(text)),
            Test::Prefix(text) => CompiledTest::Prefix(Arc::clone(text)),
            Test::Present(present) => CompiledTest::Present(*present),
            Test::Regex(pattern) => {
                patterns.push(pattern.clone());
                CompiledTest::Regex(patterns.len() - 1)
            }
        },
    };
    conditions.iter().map(&mut compile).collect()
}

/// Whether the request meets them all.
pub(super) fn all_hold(conditions: &[Compiled], asked: &Asked<'_>, patterns: &[Pattern]) -> bool {
    conditions
        .iter()
        .all(|condition| condition.holds(asked, patterns))
}

impl Compiled {
    fn holds(&self, asked: &Asked<'_>, patterns: &[Pattern]) -> bool {
        let value = match &self.part {
            Part::Header(name) => field(asked.fields, name),
            Part::Query(name) => parameter(asked.query, name),
        };
        match (&self.test, value) {
            (CompiledTest::Present(wanted), value) => value.is_some() == *wanted,
            (_, None) => false,
            (CompiledTest::Exact(text), Some(value)) => *value == *text.as_bytes(),
            (CompiledTest::Prefix(text), Some(value)) => value.starts_with(text.as_bytes()),
            (CompiledTest::Regex(pattern), Some(value)) => patterns[*pattern].matches(&value),
        }
    }
}

/// A field's values, joined where it comes several times.
fn field<'a>(fields: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut values = fields.get_all(name).iter();
    let first = values.next()?.as_bytes();
    if values.next().is_none() {
        return Some(Cow::Borrowed(first));
    }
    let between: &[u8] = if *name == COOKIE { b"; " } else { b", " };
    let all: Vec<&[u8]> = fields.get_all(name).iter().map(AsRef::as_ref).collect();
    Some(Cow::Owned(all.join(between)))
}

/// The first parameter of that name.
fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<Cow<'a, [u8]>> {
    let (_, value) = form_urlencoded::parse(query?.as_bytes()).find(|(key, _)| key == name)?;
    Some(match value {
        Cow::Borrowed(value) => Cow::Borrowed(value.as_bytes()),
        Cow::Owned(value) => Cow::Owned(value.into_bytes()),
    })
}
