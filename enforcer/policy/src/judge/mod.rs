//! Judges raw documents and builds the set that comes into force.
//!
//! Nothing here stops at the first mistake: what is wrong is reported at its place, and the rest is
//! judged all the same. A set in which anything was wrong is thrown away by the caller.

mod access;
pub mod api_keys;
mod changes;
mod destination;
mod egress;
mod issuer;
mod levels;
mod limit;
mod matching;
mod packet;
mod passthrough;
mod request;
mod require;
pub mod revocations;
mod route;
mod routing;
pub mod service;
mod tokens;
mod upstream;
mod upstream_tls;
mod variants;
mod verified;

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use super::{
    load::Document,
    raw::{self, Kind},
    yaml::{
        decode::decode,
        mistake::{alternatives, nearest},
        place::{Place, Unique, parsed},
        tree::Value,
    },
};
use enforcer_model::{
    Mode, Name, Origin, PolicySet,
    access::claims_of,
    leaf::{
        ClaimPath,
        quantity::{self, Shown},
    },
};

/// Where issuers write roles unless they say otherwise (RFC 9068, section 2.2.3.1).
const ROLES: &str = "roles";

/// The names that documents may mention, right or wrong in themselves: a mistake in a service is no
/// reason to call every route to it wrong.
pub struct Known {
    services: BTreeSet<String>,
    issuers: BTreeSet<String>,
    api_keys: BTreeSet<String>,
    /// Services that speak HTTP/2, which connections cannot be switched in.
    http2: BTreeSet<String>,
    /// Hosts of routes that pass TLS through.
    passed: passthrough::Passed,
    /// Where issuers write roles, of those that say so.
    roles: HashMap<String, ClaimPath>,
    /// Whether every document could be read: else a name that seems unknown may be in one that could not.
    complete: bool,
}

/// A document's name and place.
struct Head {
    name: Name,
    origin: Origin,
}

/// Builds the set.
///
/// `complete` says whether these are all the documents that there are.
pub fn set(documents: Vec<Document<'_>>, complete: bool) -> PolicySet {
    let known = Known {
        services: named(&documents, Kind::Service),
        issuers: named(&documents, Kind::Issuer),
        api_keys: named(&documents, Kind::ApiKeys),
        http2: of_http2(&documents),
        passed: passthrough::hosts(&documents),
        roles: roles(&documents),
        complete: complete && documents.iter().all(|document| document.name.is_some()),
    };
    let mut set = PolicySet::default();
    let mut names = Unique::default();
    let mut ports = packet::Claims::default();
    let mut routes = route::Claims::new();
    let mut api_keys = api_keys::Claims::new();
    let mut revocations = revocations::Claims::new();
    for document in documents {
        let head = head(&document, &mut names);
        let Document { kind, top, .. } = document;
        let spec = top.field("spec");
        if top.node().entry("spec").is_none() {
            if !top.mentions("spec") {
                spec.error("`spec` is missing");
            }
            continue;
        }
        match kind {
            Kind::PacketPolicy => {
                let built = decode(&spec).and_then(|raw| packet::build(head, raw, &spec, &mut ports));
                set.packet_policies.extend(built.map(Arc::new));
            }
            Kind::Service => {
                let built = decode(&spec).and_then(|raw| service::build(head, raw, &spec));
                set.services.extend(built.map(Arc::new));
            }
            Kind::Route => {
                let built = decode(&spec).and_then(|raw| route::build(head, raw, &spec, &known, &mut routes));
                set.routes.extend(built.map(Arc::new));
            }
            Kind::Issuer => {
                let built = decode(&spec).and_then(|raw| issuer::build(head, raw, &spec));
                set.issuers.extend(built.map(Arc::new));
            }
            Kind::ApiKeys => {
                let built = decode(&spec).and_then(|raw| api_keys::build(head, raw, &spec, &mut api_keys));
                set.api_keys.extend(built.map(Arc::new));
            }
            Kind::Revocations => {
                let built = decode(&spec)
                    .and_then(|raw| revocations::build(head, raw, &spec, &known, &mut revocations));
                set.revocations.extend(built.map(Arc::new));
            }
        }
    }
    set.packet_policies.sort_by(|a, b| a.name.cmp(&b.name));
    set.services.sort_by(|a, b| a.name.cmp(&b.name));
    set.routes.sort_by(|a, b| a.name.cmp(&b.name));
    routes.judge(&set.routes);
    set.issuers.sort_by(|a, b| a.name.cmp(&b.name));
    let kept: Vec<_> = set
        .issuers
        .iter()
        .map(|issuer| claims_of(&set, &issuer.name))
        .collect();
    for (issuer, kept) in set.issuers.iter_mut().zip(kept) {
        Arc::make_mut(issuer).kept = kept;
    }
    set.api_keys.sort_by(|a, b| a.name.cmp(&b.name));
    set.revocations.sort_by(|a, b| a.name.cmp(&b.name));
    set
}

fn named(documents: &[Document<'_>], kind: Kind) -> BTreeSet<String> {
    documents
        .iter()
        .filter(|document| document.kind == kind)
        .filter_map(|document| document.name.clone())
        .collect()
}

fn of_http2(documents: &[Document<'_>]) -> BTreeSet<String> {
    let speaks = |document: &&Document<'_>| {
        let spec = document.top.node().entry("spec");
        let protocol = spec.and_then(|spec| spec.node.entry("protocol"));
        document.kind == Kind::Service
            && protocol.is_some_and(|entry| matches!(&entry.node.value, Value::Text(text) if text == "http2"))
    };
    let speaking = documents.iter().filter(speaks);
    speaking.filter_map(|document| document.name.clone()).collect()
}

/// Where issuers write roles. What is wrong there is reported with the issuer.
fn roles(documents: &[Document<'_>]) -> HashMap<String, ClaimPath> {
    let issuers = documents.iter().filter(|document| document.kind == Kind::Issuer);
    let path = |document: &Document<'_>| {
        let spec = document.top.node().entry("spec")?;
        match &spec.node.entry("roles")?.node.value {
            Value::Text(text) => Some((document.name.clone()?, text.parse().ok()?)),
            _ => None,
        }
    };
    issuers.filter_map(path).collect()
}

/// Judges the name, which no other document of the kind may have.
fn head(document: &Document<'_>, names: &mut Unique<(Kind, String)>) -> Option<Head> {
    let at = document.top.field("metadata").field("name");
    let text = document.name.clone()?;
    let name = parsed(str::parse::<Name>)(&text, &at)?;
    let kind = document.kind;
    names.claim((kind, text), &at, |first| {
        format!("there is another {kind} `{name}` at {first}: give one of them another name")
    });
    Some(Head {
        name,
        origin: Origin {
            file: at.file().to_owned(),
            line: at.position().line,
        },
    })
}

impl Known {
    fn service(&self, text: &str, at: &Place<'_>) -> Option<Name> {
        self.mentioned("service", Kind::Service, &self.services, text, at)
    }

    /// Where the issuer of that name writes roles.
    fn roles_of(&self, issuer: &str) -> ClaimPath {
        let given = self.roles.get(issuer).cloned();
        given.unwrap_or_else(|| ClaimPath::of(vec![ROLES.into()]))
    }

    fn issuer(&self, text: &str, at: &Place<'_>) -> Option<Name> {
        self.mentioned("issuer", Kind::Issuer, &self.issuers, text, at)
    }

    fn api_keys(&self, text: &str, at: &Place<'_>) -> Option<Name> {
        self.mentioned("document of API keys", Kind::ApiKeys, &self.api_keys, text, at)
    }

    /// The name of a document that exists.
    fn mentioned(
        &self,
        what: &str,
        kind: Kind,
        known: &BTreeSet<String>,
        text: &str,
        at: &Place<'_>,
    ) -> Option<Name> {
        if known.contains(text) {
            // A name that is wrong in itself is reported where it is given.
            return text.parse().ok();
        }
        let names = || known.iter().map(String::as_str);
        let write_one = format!("write a document of `kind: {kind}` with that name");
        let hint = match nearest(text, names()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if !self.complete => return None,
            None if known.is_empty() => write_one,
            None if known.len() <= 10 => format!("{write_one}, or use {}", alternatives(names())),
            None => format!("{write_one}, or use one of the {} that there are", known.len()),
        };
        at.error_with(format!("there is no {what} `{text}`"), hint);
        None
    }
}

impl Known {
    /// Reports at `upgrade` of the rule `at` that `service` cannot be asked to switch.
    fn check_upgrade(&self, service: &Name, at: &Place<'_>) {
        if self.http2.contains(service.as_str()) {
            at.field("upgrade").error_with(
                format!("the service `{service}` speaks HTTP/2 and is not asked to switch"),
                "leave out `upgrade`, or lead it to a service of `protocol: http1`",
            );
        }
    }
}

fn mode(raw: Option<raw::Mode>) -> Mode {
    match raw {
        Some(raw::Mode::Shadow) => Mode::Shadow,
        Some(raw::Mode::Enforce) | None => Mode::Enforce,
    }
}

/// Reads a duration between two, both included.
pub fn duration_within(
    least: Duration,
    most: Duration,
) -> impl FnOnce(raw::Duration, &Place<'_>) -> Option<Duration> {
    move |text, at| {
        let text = text.as_ref();
        let duration = parsed(quantity::parse_duration)(text, at)?;
        if (least..=most).contains(&duration) {
            return Some(duration);
        }
        at.error(format!(
            "`{text}` is out of range: write {} to {}",
            Shown(least),
            Shown(most)
        ));
        None
    }
}

/// A value and where it stands.
type Located<'a, T> = (T, Place<'a>);

/// Elements that must be there, each once: reports an empty list, and every repetition.
fn distinct<'a, S: AsRef<str>, T: Hash + Eq + Clone>(
    at: &Place<'a>,
    key: &str,
    raw: Vec<S>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Vec<Located<'a, T>> {
    let list = at.field(key);
    if list.is_empty_list() {
        list.error_with(
            "the list is empty",
            "name at least one, or leave the field out where that is allowed",
        );
    }
    let mut seen: HashMap<T, String> = HashMap::new();
    at.each(key, raw, |(text, at)| {
        let text = text.as_ref();
        let value = parsed(&parse)(text, &at)?;
        match seen.entry(value.clone()) {
            Entry::Vacant(new) => {
                new.insert(text.to_owned());
                Some((value, at))
            }
            Entry::Occupied(first) => {
                at.error(format!(
                    "`{text}` says the same as `{}` above: write it once",
                    first.get()
                ));
                None
            }
        }
    })
}

/// As [`distinct`], of a field that may be left out.
fn distinct_of<'a, S: AsRef<str>, T: Hash + Eq + Clone>(
    at: &Place<'a>,
    key: &str,
    raw: Option<Vec<S>>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Vec<Located<'a, T>> {
    raw.map(|raw| distinct(at, key, raw, parse)).unwrap_or_default()
}

/// The values alone.
fn values<T>(located: Vec<Located<'_, T>>) -> Vec<T> {
    located.into_iter().map(|(value, _)| value).collect()
}
