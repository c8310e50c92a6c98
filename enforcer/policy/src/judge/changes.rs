//! What is changed in requests on their way to a service, and in its responses.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue};

use super::distinct_of;
use crate::{
    raw,
    yaml::place::{Place, Unique, parsed},
};
use enforcer_http_rules::{hop_by_hop::is_of_hop, host::value, reserved::is_ours, target::spelling};
use enforcer_model::{
    destination::{FieldChanges, PathChange, Rewrite},
    leaf::{PathMatch, Template},
};

/// The most changes of each kind.
const MAX_CHANGES: usize = 32;

/// The longest path that is written.
const MAX_PATH: usize = 1024;

pub(super) fn rewrite(raw: raw::Rewrite, path: &PathMatch, at: &Place<'_>) -> Option<Rewrite> {
    if !at.mentions("path") && !at.mentions("host") {
        at.error("nothing is rewritten: write `path` or `host`");
    }
    Some(Rewrite {
        path: at.optional("path", raw.path, |raw, at| path_change(raw, path, at)),
        host: at.optional("host", raw.host, |text, at| host(&text, at)),
    })
}

/// A change of paths that `matched` has let in.
pub(super) fn path_change(raw: raw::PathChange, matched: &PathMatch, at: &Place<'_>) -> Option<PathChange> {
    let all = "write {replacePrefix: /x}, {replace: /x} or {regex: …, with: …}";
    let ways = ["replacePrefix", "replace", "regex"];
    let (mut told, has_with) = (ways.iter().filter(|key| at.mentions(key)), at.mentions("with"));
    match (told.next(), told.next()) {
        (None, _) => {
            at.error_with("this says no path", all);
            return None;
        }
        (Some(_), Some(_)) => {
            at.error_with("this says more than one path", all);
            return None;
        }
        (Some(way), None) if has_with != (*way == "regex") => {
            at.error_with("`regex` and `with` belong together", all);
            return None;
        }
        (Some(_), None) => {}
    }
    if let Some(text) = raw.replace_prefix {
        let at = at.field("replacePrefix");
        let PathMatch::Prefix(from) = matched else {
            at.error_with(
                "the rule's path is no prefix",
                "write `match: {path: {prefix: …}}`, or `replace` in place of this",
            );
            return None;
        };
        let PathMatch::Prefix(to) = parsed(PathMatch::prefix)(&text, &at)? else {
            return None;
        };
        let without_slash = |path: &str| path.strip_suffix('/').unwrap_or(path).into();
        return normal(&to, &at).then(|| PathChange::Prefix {
            from: without_slash(from),
            to: without_slash(&to),
        });
    }
    if let Some(text) = raw.replace {
        let at = at.field("replace");
        let PathMatch::Exact(path) = parsed(PathMatch::exact)(&text, &at)? else {
            return None;
        };
        return normal(&path, &at).then_some(PathChange::Whole(path));
    }
    let PathMatch::Regex(pattern) = parsed(PathMatch::regex)(raw.regex?, &at.field("regex"))? else {
        return None;
    };
    let (with, at) = (raw.with?, at.field("with"));
    if !with.starts_with('/') {
        at.error(format!("`{with}` does not begin with /: write /{with}"));
        return None;
    }
    if !normal(&with, &at) {
        return None;
    }
    let with = parsed(|text| Template::new(text, &pattern))(with, &at)?;
    Some(PathChange::Regex { pattern, with })
}

/// Whether services get a path as it is written; says so where they do not.
fn normal(path: &str, at: &Place<'_>) -> bool {
    if path.len() > MAX_PATH {
        at.error(format!(
            "a path that is written here has at most {MAX_PATH} bytes"
        ));
        return false;
    }
    match spelling(path) {
        Ok(right) if right == path => true,
        Ok(right) => {
            at.error(format!(
                "this is not in the normal form, in which services get paths: write `{right}`"
            ));
            false
        }
        Err(error) => {
            at.error(format!("this has no normal form: {error}"));
            false
        }
    }
}

/// A host, with a port where there is one.
pub(super) fn host(text: &str, at: &Place<'_>) -> Option<HeaderValue> {
    let value = value(text);
    if value.is_none() {
        at.error(format!(
            "`{text}` is no host: write a name like api.example.com or api.example.com:8080"
        ));
    }
    value
}

/// Which way the fields go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    ToService,
    ToClient,
}

pub(super) fn field_changes(raw: raw::FieldChanges, way: Way, at: &Place<'_>) -> Option<FieldChanges> {
    let remove = distinct_of(at, "remove", raw.remove.map(|list| list.0), |text| {
        name(text, way)
    });
    let changes = FieldChanges {
        remove: super::values(remove),
        set: fields("set", raw.set, way, at),
        add: fields("add", raw.add, way, at),
    };
    let most = [changes.remove.len(), changes.set.len(), changes.add.len()];
    if most.into_iter().any(|count| count > MAX_CHANGES) {
        at.error(format!("there are at most {MAX_CHANGES} changes of each kind"));
    }
    Some(changes)
}

fn fields(
    key: &str,
    raw: Option<BTreeMap<String, String>>,
    way: Way,
    at: &Place<'_>,
) -> Vec<(HeaderName, HeaderValue)> {
    let at = at.field(key);
    let mut seen = Unique::default();
    let judge = |(text, value): (String, String)| {
        let at = at.field(&text);
        let name = parsed(|text: &str| name(text, way))(&text, &at)?;
        seen.claim(name.as_str().to_owned(), &at, |first| {
            format!("`{name}` is at {first} too, and case makes no difference")
        });
        match HeaderValue::from_str(&value) {
            Ok(value) => Some((name, value)),
            Err(_) => {
                at.error("a value is one line of visible ASCII, spaces and tabs");
                None
            }
        }
    };
    raw.unwrap_or_default().into_iter().filter_map(judge).collect()
}

/// The name of a field that requests to services may be given.
pub(super) fn field_to_service(text: &str) -> Result<HeaderName, String> {
    name(text, Way::ToService)
}

/// The name of a field that may be changed.
fn name(text: &str, way: Way) -> Result<HeaderName, String> {
    let name: HeaderName = text
        .parse()
        .map_err(|_| format!("`{text}` is no name of a header field: write it like x-canary"))?;
    if is_of_hop(&name) {
        return Err(format!(
            "`{name}` is about a connection, or how a message is carried on it, and is the gateway's own"
        ));
    }
    if way == Way::ToService && name == http::header::HOST {
        return Err("the host is changed by `rewrite: {host: …}`".to_owned());
    }
    if way == Way::ToService && is_ours(name.as_str()) {
        return Err(format!(
            "`{name}` is one by which services learn who asks, and only what the gateway knows is said there"
        ));
    }
    Ok(name)
}
