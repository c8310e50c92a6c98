//! What a rule looks at in a request beside its path and method.

use http::HeaderName;

use crate::{
    raw,
    yaml::place::{Place, Unique, parsed},
};
use enforcer_http_rules::{hop_by_hop::is_of_hop, reserved::is_ours};
use enforcer_model::{
    leaf::Pattern,
    matching::{Condition, Part, Test},
};

/// The most conditions of one kind in a rule.
const MAX_CONDITIONS: usize = 16;

/// Takes what it judges out of `match` at `at`.
pub(super) fn conditions(raw: &mut raw::Match, at: &Place<'_>) -> Vec<Condition> {
    let mut conditions = headers(raw.headers.take().unwrap_or_default(), at);
    conditions.extend(query(raw.query.take().unwrap_or_default(), at));
    conditions
}

fn headers(list: Vec<raw::HeaderMatch>, at: &Place<'_>) -> Vec<Condition> {
    check_length(list.len(), &at.field("headers"));
    let mut seen = Unique::default();
    at.each("headers", list, |(raw, at)| {
        let name = at.required("name", raw.name, parsed(field_name));
        if let Some(name) = &name {
            claim(&mut seen, name.as_str(), &at);
        }
        let tests = [
            raw.exact.map(|text| (Kind::Exact, text)),
            raw.prefix.map(|text| (Kind::Prefix, text)),
            raw.regex.map(|text| (Kind::Regex, text)),
        ];
        let test = test(tests, raw.present, "exact, prefix, regex or present", &at);
        Some(Condition {
            part: Part::Header(name?),
            test: test?,
        })
    })
}

fn query(list: Vec<raw::QueryMatch>, at: &Place<'_>) -> Vec<Condition> {
    check_length(list.len(), &at.field("query"));
    let mut seen = Unique::default();
    at.each("query", list, |(raw, at)| {
        let name = at.required("name", raw.name, |name, at| {
            if name.is_empty() {
                at.error("an empty name is no parameter's");
                return None;
            }
            Some(name)
        });
        if let Some(name) = &name {
            claim(&mut seen, name, &at);
        }
        let tests = [
            raw.exact.map(|text| (Kind::Exact, text)),
            None,
            raw.regex.map(|text| (Kind::Regex, text)),
        ];
        let test = test(tests, raw.present, "exact, regex or present", &at);
        Some(Condition {
            part: Part::Query(name?.into()),
            test: test?,
        })
    })
}

fn check_length(length: usize, at: &Place<'_>) {
    if length > MAX_CONDITIONS {
        at.error(format!(
            "a rule has at most {MAX_CONDITIONS} of these, and here are {length}"
        ));
    }
}

fn claim(seen: &mut Unique<String>, name: &str, at: &Place<'_>) {
    seen.claim(name.to_owned(), at, |first| {
        format!("the condition at {first} is about `{name}` too: join the two")
    });
}

/// How a text is compared.
#[derive(Clone, Copy)]
enum Kind {
    Exact,
    Prefix,
    Regex,
}

/// The one test that is written.
fn test(
    texts: [Option<(Kind, String)>; 3],
    present: Option<bool>,
    all: &str,
    at: &Place<'_>,
) -> Option<Test> {
    let mut texts = texts.into_iter().flatten();
    match (texts.next(), texts.next(), present) {
        (Some((kind, text)), None, None) => text_test(kind, text, at),
        (None, None, Some(present)) => Some(Test::Present(present)),
        (None, None, None) => {
            let is_told = ["exact", "prefix", "regex", "present"]
                .iter()
                .any(|key| at.mentions(key));
            if !is_told {
                at.error_with("nothing is said of the value", format!("write one of {all}"));
            }
            None
        }
        _ => {
            at.error_with(
                "the value has more than one condition",
                format!("write one of {all}"),
            );
            None
        }
    }
}

fn text_test(kind: Kind, text: String, at: &Place<'_>) -> Option<Test> {
    match kind {
        Kind::Exact => Some(Test::Exact(text.into())),
        Kind::Prefix if text.is_empty() => {
            at.field("prefix")
                .error_with("every value begins with nothing", "write `present: true`");
            None
        }
        Kind::Prefix => Some(Test::Prefix(text.into())),
        Kind::Regex => parsed(Pattern::new)(text, &at.field("regex")).map(Test::Regex),
    }
}

/// A field that a client's request may have on its way to the service.
fn field_name(text: &str) -> Result<HeaderName, String> {
    let name: HeaderName = text
        .parse()
        .map_err(|_| format!("`{text}` is no name of a header field: write it like x-canary"))?;
    if name == http::header::HOST {
        return Err("the host is matched by the route's `hosts`".to_owned());
    }
    if is_ours(name.as_str()) {
        return Err(format!(
            "`{name}` from a client is removed and says nothing true: match by `require`, or by another field"
        ));
    }
    if is_of_hop(&name) {
        return Err(format!(
            "`{name}` is about the client's connection and goes no further: match by another field"
        ));
    }
    Ok(name)
}
