//! Judges who vouches for the clients of a listener.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{Authority, AuthorityId, Bounds, Listener, build::existing_file};
use enforcer_model::{Attribute, leaf::Name};
use enforcer_policy::{
    raw::OneOrMany,
    yaml::place::{Place, parsed},
};
use enforcer_tls::subjects;

/// The most authorities of a listener, and entries of each of their bounds.
const MOST: usize = 256;

/// Any value of an attribute.
const ANY: &str = "*";

/// What to write where an authority may vouch for anybody.
const BOUND_IT: &str = "say for whom each vouches: `{name: partners, file: partners.pem, trustDomains: [partner.example]}`, or `names`, or `subject`";

/// An element of `clientCa` as it is written: a file alone, or a mapping.
#[derive(Debug, Default)]
pub(super) struct Raw {
    name: Option<String>,
    file: Option<String>,
    trust_domains: Option<OneOrMany<String>>,
    names: Option<OneOrMany<String>>,
    subject: Option<Subject>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Full {
    name: Option<String>,
    file: Option<String>,
    trust_domains: Option<OneOrMany<String>>,
    names: Option<OneOrMany<String>>,
    subject: Option<Subject>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Subject {
    cn: Option<OneOrMany<String>>,
    o: Option<OneOrMany<String>>,
    ou: Option<OneOrMany<String>>,
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RawVisitor;
        impl<'de> Visitor<'de> for RawVisitor {
            type Value = Raw;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a file like ca.pem, or {name, file, trustDomains, names, subject}")
            }

            fn visit_str<E>(self, text: &str) -> Result<Raw, E> {
                Ok(Raw {
                    file: Some(text.to_owned()),
                    ..Raw::default()
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Raw, A::Error> {
                let full = Full::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Raw {
                    name: full.name,
                    file: full.file,
                    trust_domains: full.trust_domains,
                    names: full.names,
                    subject: full.subject,
                })
            }
        }
        deserializer.deserialize_any(RawVisitor)
    }
}

/// The authorities in `clientCa` of `at`.
pub(super) fn authorities(list: OneOrMany<Raw>, at: &Place<'_>) -> Vec<Authority> {
    let place = at.field("clientCa");
    if place.is_empty_list() {
        place.error("the list is empty: name a file, like ca.pem");
    }
    if list.0.len() > MOST {
        place.error(format!("a listener has at most {MOST} authorities"));
    }
    let several = list.0.len() > 1;
    let mut names = BTreeMap::new();
    at.each("clientCa", list.0, |(raw, at)| {
        let authority = authority(raw, &at)?;
        if let Some(id) = &authority.id
            && let Some(first) = names.insert(id.to_string(), at.reference())
        {
            at.error(format!(
                "the authority at {first} is named `{id}` too: give one of them another name"
            ));
        }
        if authority.bounds.is_none() {
            let organisations = || subjects(&authority.file).map_or(0, |subjects| subjects.len());
            if several {
                at.warning(
                    "several authorities vouch for clients here, and this one may vouch for anybody, also for whom another vouches for",
                    BOUND_IT,
                );
            } else if organisations() > 1 {
                at.warning(
                    "there are authorities with different names in this file, and each may vouch for anybody",
                    format!("if they belong to different organisations, give each a file of its own and {BOUND_IT}"),
                );
            }
        }
        Some(authority)
    })
}

fn authority(raw: Raw, at: &Place<'_>) -> Option<Authority> {
    let is_mapping = !at.node().entries().is_empty();
    let file = match raw.file {
        Some(file) if !is_mapping => existing_file(&file, at),
        file => at.required("file", file, |text, at| existing_file(&text, at)),
    };
    let name = at.optional("name", raw.name, parsed(str::parse::<Name>));
    let bounds = Bounds {
        trust_domains: parsed_list("trustDomains", raw.trust_domains, at),
        names: parsed_list("names", raw.names, at),
        subject: at
            .optional("subject", raw.subject, |raw, at| Some(subject(raw, at)))
            .unwrap_or_default(),
    };
    let is_bounded = ["trustDomains", "names", "subject"]
        .iter()
        .any(|key| at.mentions(key));
    Some(Authority {
        id: name.map(AuthorityId::Name),
        file: file?,
        bounds: is_bounded.then_some(bounds),
    })
}

fn parsed_list<T: std::str::FromStr<Err = String>>(
    key: &str,
    list: Option<OneOrMany<String>>,
    at: &Place<'_>,
) -> Vec<T> {
    let Some(list) = list else { return Vec::new() };
    let place = at.field(key);
    if place.is_empty_list() {
        place.error("the list is empty: name at least one, or leave it out");
    }
    if list.0.len() > MOST {
        place.error(format!("there are at most {MOST}"));
    }
    at.each(key, list.0, |(text, at)| parsed(str::parse)(text, &at))
}

/// For each attribute that is written, its values; `None`: any.
fn subject(raw: Subject, at: &Place<'_>) -> Vec<(Attribute, Option<Vec<Arc<str>>>)> {
    if at.node().entries().is_empty() {
        at.error("it says nothing of the subject: write `subject: {o: Partner Ltd}`, `cn` or `ou`");
    }
    let mut bounds = Vec::new();
    for (key, attribute, list) in [
        ("cn", Attribute::CommonName, raw.cn),
        ("o", Attribute::Organization, raw.o),
        ("ou", Attribute::OrganizationalUnit, raw.ou),
    ] {
        let Some(list) = list else { continue };
        let place = at.field(key);
        if list.0.is_empty() || list.0.len() > MOST || list.0.iter().any(String::is_empty) {
            place.error(format!("write 1 to {MOST} values, or `\"*\"` for any"));
        }
        let is_any = list.0.iter().any(|value| value == ANY);
        let values = list.0.into_iter().map(Arc::from).collect();
        bounds.push((attribute, (!is_any).then_some(values)));
    }
    let is_any = |(_, values): &(Attribute, Option<Vec<Arc<str>>>)| values.is_none();
    if !bounds.is_empty() && bounds.iter().all(is_any) {
        at.error("any subject that has these attributes is within this bound: give one of them values");
    }
    bounds
}

/// Judges the authorities of all listeners together: routes are not bound to listeners unless they say so, and limits per
/// identity are kept for all of them. Those that have no name are told apart by their files, if there are several.
pub(super) fn across(listeners: &mut [Listener], places: &[Place<'_>]) {
    let mut by_name: BTreeMap<String, (Authority, String)> = BTreeMap::new();
    let mut files = BTreeMap::new();
    let mut is_warned = false;
    for (listener, at) in listeners.iter().zip(places) {
        let place = at.field("tls").field("clientCa");
        let authorities = listener.authorities();
        is_warned |= authorities.len() > 1;
        for authority in authorities {
            files
                .entry(authority.file.clone())
                .or_insert_with(|| place.clone());
            let Some(id) = &authority.id else { continue };
            let known = by_name
                .entry(id.to_string())
                .or_insert_with(|| (authority.clone(), place.reference()));
            if known.0 != *authority {
                place.error_with(
                    format!("`{id}` is another authority at {}", known.1),
                    "give one of them another name, or write the same of both",
                );
            }
        }
    }
    if files.len() < 2 {
        return;
    }
    for (listener, at) in listeners.iter_mut().zip(places) {
        for authority in listener.authorities_mut() {
            if authority.bounds.is_none() && !is_warned {
                at.field("tls").field("clientCa").warning(
                    "listeners have different authorities, and this one may vouch for anybody, also for whom another vouches for",
                    BOUND_IT,
                );
            }
            if authority.id.is_none() {
                authority.id = Some(AuthorityId::File(authority.file.clone()));
            }
        }
    }
}
