//! API keys.

use std::sync::Arc;

use http::HeaderName;

use super::{Head, Known, distinct, distinct_of, packet::until, values};
use crate::{
    raw,
    yaml::place::{Place, Unique, parsed},
};
use enforcer_model::{ApiKey, ApiKeyRequirement, ApiKeys, leaf::Name};

/// The most keys of all documents together.
const MOST_KEYS: usize = 100_000;

/// The most documents that one rule names.
const MOST_DOCUMENTS: usize = 32;

/// The longest id and role, in bytes.
const LONGEST_WORD: usize = 128;

/// The longest owner, in bytes.
const LONGEST_OWNER: usize = 256;

/// The field that a key is sent in, unless the rule says otherwise.
const HEADER: HeaderName = HeaderName::from_static("x-api-key");

/// What begins a hash.
const SHA256: &str = "sha256:";

/// Which keys there are, in all documents.
pub(super) struct Claims {
    ids: Unique<Arc<str>>,
    hashes: Unique<[u8; 32]>,
    count: usize,
}

impl Claims {
    pub(super) fn new() -> Self {
        Self {
            ids: Unique::default(),
            hashes: Unique::default(),
            count: 0,
        }
    }
}

pub(super) fn build(
    head: Option<Head>,
    raw: raw::ApiKeys,
    at: &Place<'_>,
    claims: &mut Claims,
) -> Option<ApiKeys> {
    let document = head.as_ref().map(|head| head.name.clone());
    let keys = at.required("keys", raw.keys, |list, place| {
        let before = claims.count;
        claims.count += list.len();
        if before <= MOST_KEYS && claims.count > MOST_KEYS {
            place.error(format!(
                "there are more than {MOST_KEYS} keys in all: `enforcer api-key new` is for keys that people hand out; give many users tokens"
            ));
        }
        Some(at.each("keys", list, |(raw, at)| {
            key(raw, &at, document.as_ref(), claims).map(Arc::new)
        }))
    });
    let head = head?;
    Some(ApiKeys {
        name: head.name,
        origin: head.origin,
        keys: keys?,
    })
}

fn key(raw: raw::ApiKey, at: &Place<'_>, document: Option<&Name>, claims: &mut Claims) -> Option<ApiKey> {
    let id = at.required("id", raw.id, |text, at| {
        let id = parsed(parse_word)(text, at)?;
        claims.ids.claim(Arc::clone(&id), at, |first| {
            format!("there is another key `{id}` at {first}: give one of them another id")
        });
        Some(id)
    });
    let hash = at.required("hash", raw.hash, |text, at| {
        let hash = parsed(parse_hash)(text, at)?;
        claims.hashes.claim(hash, at, |first| {
            format!("this key is at {first} already: a key has one id and one owner")
        });
        Some(hash)
    });
    let owner = at.required("owner", raw.owner, parsed(parse_owner));
    let tier = at.optional("tier", raw.tier, parsed(str::parse::<Name>));
    let roles = values(distinct_of(at, "roles", raw.roles.map(|list| list.0), parse_word));
    let expires = at.optional("expires", raw.expires, |text, at| until(&text, at));
    Some(ApiKey {
        document: document?.clone(),
        id: id?,
        hash: hash?,
        owner: owner?,
        tier: tier.map(|tier| tier.shared()),
        roles,
        expires,
    })
}

pub(super) fn requirement(
    raw: raw::RequireApiKey,
    at: &Place<'_>,
    known: &Known,
) -> Option<ApiKeyRequirement> {
    let keys = at.required("keys", raw.keys, |list, place| {
        if list.0.len() > MOST_DOCUMENTS {
            place.error(format!("a rule names at most {MOST_DOCUMENTS} documents of keys"));
        }
        let named = distinct(at, "keys", list.0, |text| Ok(text.to_owned()));
        let known = named
            .into_iter()
            .filter_map(|(text, at)| known.api_keys(&text, &at));
        Some(known.collect())
    });
    let roles = values(distinct_of(at, "roles", raw.roles.map(|list| list.0), parse_word));
    let header = at.optional("header", raw.header, parsed(parse_header));
    Some(ApiKeyRequirement {
        keys: keys?,
        roles,
        header: header.unwrap_or(HEADER),
    })
}

/// What names a key or a role.
pub fn parse_word(text: &str) -> Result<Arc<str>, String> {
    if text.is_empty() || text.len() > LONGEST_WORD || !text.chars().all(|c| c.is_ascii_graphic()) {
        return Err(format!(
            "`{text}` is no name here: write 1 to {LONGEST_WORD} visible ASCII characters without spaces"
        ));
    }
    Ok(text.into())
}

/// Services are told the owner in a header field.
pub fn parse_owner(text: &str) -> Result<Arc<str>, String> {
    if text.is_empty()
        || text.len() > LONGEST_OWNER
        || text.chars().any(char::is_control)
        || text.trim() != text
    {
        return Err(format!(
            "`{text}` is no owner: write 1 to {LONGEST_OWNER} bytes of one line, without spaces at its ends"
        ));
    }
    Ok(text.into())
}

fn parse_hash(text: &str) -> Result<[u8; 32], String> {
    let wanted = "write `sha256:` and 64 hexadecimal digits, as `enforcer api-key new` prints it";
    if text.starts_with("enf_") {
        return Err(format!(
            "this is a key itself, which belongs into no file: {wanted}"
        ));
    }
    let digits = text.strip_prefix(SHA256).unwrap_or_default();
    let hash = from_hex(digits).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    hash.ok_or_else(|| format!("`{text}` is no hash of a key: {wanted}"))
}

/// The bytes that pairs of hexadecimal digits stand for.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
        .collect()
}

/// A field that means something else cannot carry a key.
fn parse_header(text: &str) -> Result<HeaderName, String> {
    let wrong = || format!("`{text}` is no header field for a key: write it like x-api-key");
    let name: HeaderName = text.parse().map_err(|_| wrong())?;
    if name == http::header::AUTHORIZATION {
        return Err("`authorization` carries tokens: name another field, as x-api-key".to_owned());
    }
    let taken = [
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    if taken.contains(&name.as_str()) {
        return Err(wrong());
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        load::parse,
        yaml::{
            decode::decode,
            place::{Sink, Source},
        },
    };

    #[test]
    fn all_documents_together_have_so_many_keys_and_no_more() {
        let key = |number: u8| format!("{{id: k{number}, hash: 'sha256:{number:064x}', owner: a}}");
        for (before, more) in [(MOST_KEYS - 2, false), (MOST_KEYS - 1, true), (MOST_KEYS, true)] {
            let text = format!("keys: [{}, {}]", key(1), key(2));
            let (source, sink) = (Source::new("keys.yaml".into(), text), Sink::default());
            let tree = parse(&source, &sink);
            let at = Place::root(&tree.documents[0], &source, &sink);
            let mut claims = Claims {
                count: before,
                ..Claims::new()
            };
            build(None, decode(&at).unwrap(), &at, &mut claims);
            let told: Vec<String> = sink
                .into_sorted()
                .iter()
                .map(|problem| problem.message.clone())
                .collect();
            // Without a name there is no document, and the caller says so.
            let told = told
                .iter()
                .filter(|message| message.contains("more than 100000 keys"))
                .count();
            assert_eq!(told, usize::from(more), "{before}");
        }
    }
}
