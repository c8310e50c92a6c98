//! Whether a request has in its header fields and its query what a rule wants.

use std::{borrow::Cow, sync::Arc};

use http::{HeaderMap, HeaderName, header::COOKIE};

use super::router::Asked;
use enforcer_model::{Condition, Part, Pattern, Test};

/// A condition whose regular expression is one of the router's patterns.
#[derive(Debug)]
pub struct Compiled {
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
pub fn compile(conditions: &[Condition], patterns: &mut Vec<Pattern>) -> Box<[Compiled]> {
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

/// Whether a request meets conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    Yes,
    No,
    /// A parameter comes several times. Some services take the first, others the last, or all.
    Unclear,
}

/// Whether the request meets them all.
pub fn all_hold(conditions: &[Compiled], asked: &Asked<'_>, patterns: &[Pattern]) -> Met {
    let mut all = Met::Yes;
    for condition in conditions {
        match condition.holds(asked, patterns) {
            Met::Yes => {}
            // Whatever the others are.
            Met::No => return Met::No,
            Met::Unclear => all = Met::Unclear,
        }
    }
    all
}

impl Compiled {
    fn holds(&self, asked: &Asked<'_>, patterns: &[Pattern]) -> Met {
        let value = match &self.part {
            Part::Header(name) => field(asked.fields, name),
            Part::Query(name) => {
                let mut values = parameters(asked.query, name);
                let first = values.next();
                let is_present = matches!(self.test, CompiledTest::Present(_));
                if !is_present && values.next().is_some() {
                    return Met::Unclear;
                }
                first
            }
        };
        if self.admits(value, patterns) {
            Met::Yes
        } else {
            Met::No
        }
    }

    fn admits(&self, value: Option<Cow<'_, [u8]>>, patterns: &[Pattern]) -> bool {
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

/// The values of the parameters of that name, decoded.
fn parameters<'a>(query: Option<&'a str>, name: &str) -> impl Iterator<Item = Cow<'a, [u8]>> {
    let all = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    all.filter(move |(key, _)| key == name)
        .map(|(_, value)| match value {
            Cow::Borrowed(value) => Cow::Borrowed(value.as_bytes()),
            Cow::Owned(value) => Cow::Owned(value.into_bytes()),
        })
}
