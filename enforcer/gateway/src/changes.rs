//! What a rule changes in requests on their way to a service, and in its responses.
//!
//! The rule is chosen, and the request authorized and limited, by what the client has written. Then the
//! path is rewritten and brought into its normal form again, and that is what the service gets.

use http::{
    HeaderMap, HeaderValue, Response, Uri,
    header::{HOST, LOCATION},
    request::Parts,
    uri::{PathAndQuery, Scheme},
};

use super::refusal::Refusal;
use enforcer_http_rules::{
    host::Host,
    reserved::{is_same_field, remove_where},
    target,
};
use enforcer_model::{FieldChanges, PathChange, Pattern, Redirect, Rewrite};

/// Removes, sets and adds fields.
pub(super) fn apply(changes: &FieldChanges, fields: &mut HeaderMap) {
    for name in &changes.remove {
        fields.remove(name);
    }
    for (name, value) in &changes.set {
        fields.insert(name, value.clone());
    }
    for (name, value) in &changes.add {
        fields.append(name, value.clone());
    }
}

/// Does so with the fields of a request. What is removed and what is set goes in all its spellings, or a service that
/// makes no difference between `-` and `_` would read what the client has written.
pub(super) fn apply_to_request(changes: &FieldChanges, fields: &mut HeaderMap) {
    let replaced = || changes.set.iter().map(|(name, _)| name);
    if !changes.remove.is_empty() || !changes.set.is_empty() {
        remove_where(fields, |name| {
            let mut all = changes.remove.iter().chain(replaced());
            all.any(|ours| is_same_field(name, ours))
        });
    }
    apply(changes, fields);
}

/// Makes of a request's path and host what the service gets. `pattern`: the worker's clone of the one in `rewrite`.
///
/// # Errors
/// When the new path is none that a service may get.
pub(super) fn rewrite(
    rewrite: &Rewrite,
    pattern: Option<&Pattern>,
    parts: &mut Parts,
) -> Result<(), Refusal> {
    if let Some(change) = &rewrite.path {
        parts.uri = Uri::from(changed(change, pattern, &parts.uri)?);
    }
    if let Some(host) = &rewrite.host {
        parts.headers.insert(HOST, host.clone());
    }
    Ok(())
}

/// Where the client of a request is told to ask. `tls`: whether it has come by TLS.
///
/// # Errors
/// When the new path is none, or too long.
pub(super) fn redirect<B: Default>(
    redirect: &Redirect,
    pattern: Option<&Pattern>,
    uri: &Uri,
    host: &Host,
    tls: bool,
) -> Result<Response<B>, Refusal> {
    let path = match &redirect.path {
        Some(change) => changed(change, pattern, uri)?,
        None => uri.path_and_query().cloned().unwrap_or_else(root),
    };
    let elsewhere = redirect.scheme.is_some() || redirect.host.is_some() || redirect.port.is_some();
    let location = if elsewhere {
        let came_by = if tls { Scheme::HTTPS } else { Scheme::HTTP };
        let scheme = redirect.scheme.as_ref().unwrap_or(&came_by);
        let host = redirect.host.as_deref().unwrap_or(host.name());
        match redirect.port {
            Some(port) => format!("{scheme}://{host}:{port}{path}"),
            None => format!("{scheme}://{host}{path}"),
        }
    } else {
        path.to_string()
    };
    let location = HeaderValue::try_from(location).map_err(|_| unfit())?;
    let mut response = Response::new(B::default());
    *response.status_mut() = redirect.status;
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

/// The path that `change` makes, with the query.
fn changed(change: &PathChange, pattern: Option<&Pattern>, uri: &Uri) -> Result<PathAndQuery, Refusal> {
    let path = uri.path();
    let new = match change {
        PathChange::Whole(new) => new.to_string(),
        PathChange::Prefix { from, to } => match path.strip_prefix(&**from) {
            Some("") if to.is_empty() => "/".to_owned(),
            Some(rest) => format!("{to}{rest}"),
            None => path.to_owned(),
        },
        PathChange::Regex { pattern: own, with } => match pattern.unwrap_or(own).captures(path.as_bytes()) {
            Some(captures) => String::from_utf8(with.expand(&captures)).map_err(|_| unfit())?,
            None => path.to_owned(),
        },
    };
    let mut new = target::normalise(&new).map_err(|_| unfit())?.into_owned();
    if let Some(query) = uri.query() {
        new.push('?');
        new.push_str(query);
    }
    PathAndQuery::try_from(new).map_err(|_| unfit())
}

fn root() -> PathAndQuery {
    PathAndQuery::from_static("/")
}

fn unfit() -> Refusal {
    Refusal::invalid("the path cannot be rewritten")
}

#[cfg(test)]
mod tests {
    use super::*;
    use enforcer_model::leaf::Template;

    fn prefix(from: &str, to: &str) -> PathChange {
        PathChange::Prefix {
            from: from.into(),
            to: to.into(),
        }
    }

    fn regex(pattern: &str, with: &str) -> PathChange {
        let pattern = Pattern::new(pattern).unwrap();
        let with = Template::new(with, &pattern).unwrap();
        PathChange::Regex { pattern, with }
    }

    #[test]
    fn paths() {
        for (change, before, after) in [
            (prefix("/a", "/x"), "/a/b?q=1", Some("/x/b?q=1")),
            (prefix("/a", "/x"), "/a", Some("/x")),
            (prefix("/a", "/x"), "/a/", Some("/x/")),
            (prefix("/a", ""), "/a", Some("/")),
            (prefix("/a", ""), "/a?q", Some("/?q")),
            (prefix("/a", ""), "/a/b/", Some("/b/")),
            (prefix("", "/x"), "/", Some("/x/")),
            (prefix("", "/x"), "/b", Some("/x/b")),
            (PathChange::Whole("/x".into()), "/a/b?q#", Some("/x?q")),
            (regex("/(a+)/(.*)", "/$2/$1"), "/aa/b/c", Some("/b/c/aa")),
            (regex("/(a+)/(.*)", "/$2/$1"), "/aa/", Some("/aa")),
            (regex("/(a+)/(.*)", "/$2/$1"), "/other", Some("/other")),
            // What comes of it is judged as a client's path is.
            (regex("/(.*)/(.*)", "/.$1./$2"), "/.x/b", Some("/..x./b")),
            (regex("/(.*)/(.*)", "/$1$2/../.."), "/x/y", None),
            (regex("/(.*)/(.*)", "/%$1$2"), "/2/f", None),
            (regex("/(.*)", "/x/$1"), "/", Some("/x/")),
        ] {
            let changed = changed(&change, None, &before.parse().unwrap());
            let changed = changed.ok().map(|path| path.to_string());
            assert_eq!(changed.as_deref(), after, "{change:?} of {before}");
        }
    }
}
