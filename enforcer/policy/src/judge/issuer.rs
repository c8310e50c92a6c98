//! Issuers of tokens.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use jsonwebtoken::Algorithm;

use super::{Head, distinct, duration_within, tokens, values};
use crate::{
    raw,
    yaml::{
        mistake::nearest,
        place::{Place, parsed},
    },
};
use enforcer_model::{CheckedBy, ClaimPath, Issuer, Jwks, JwksSource, Profile};

/// The signature algorithms that are accepted: asymmetric only.
const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("EdDSA", Algorithm::EdDSA),
];

pub(super) fn build(head: Option<Head>, raw: raw::Issuer, at: &Place<'_>) -> Option<Issuer> {
    let issuer = at.required("issuer", raw.issuer, parsed(parse_text));
    let introspected = raw.introspection.is_some() || at.mentions("introspection");
    let checked_by = checked_by(raw.jwks, raw.introspection, at);
    let audiences = at.required("audiences", raw.audiences, |list, _| {
        Some(values(distinct(at, "audiences", list.0, parse_text)))
    });
    let algorithms = if introspected {
        let useless = |key: &&str| at.mentions(key) && !at.mentions("jwks");
        for key in ["algorithms", "types", "profile"].into_iter().filter(useless) {
            at.field(key).error_with(
                format!("`{key}` is about signed tokens, and the issuer is asked about these"),
                format!("leave `{key}` out, or use `jwks` instead of `introspection`"),
            );
        }
        Some(Vec::new())
    } else {
        at.required("algorithms", raw.algorithms, |list, _| {
            Some(values(distinct(at, "algorithms", list.0, parse_algorithm)))
        })
    };
    if at.mentions("profile") && at.mentions("types") {
        at.field("types").error_with(
            "`profile: rfc9068` is about tokens of the type `at+jwt` alone",
            "leave `types` or `profile` out",
        );
    }
    let types = raw
        .types
        .map(|list| values(distinct(at, "types", list.0, parse_type)));
    let leeway = duration_within(Duration::ZERO, Duration::from_secs(300));
    let leeway = at.optional("leeway", raw.leeway, leeway);
    // Where it leads to is looked up by the rules that ask for roles.
    at.optional("roles", raw.roles, parsed(str::parse::<ClaimPath>));
    let tier = at.optional("tier", raw.tier, parsed(str::parse::<ClaimPath>));
    let dpop = at.optional("dpop", raw.dpop, |raw, at| Some(tokens::dpop(raw, at)));
    let head = head?;
    Some(Issuer {
        name: head.name,
        origin: head.origin,
        issuer: issuer?,
        checked_by: checked_by?,
        audiences: audiences?,
        algorithms: algorithms?,
        // RFC 9068, section 2.1.
        types: types.unwrap_or_else(|| vec!["at+jwt".into()]),
        profile: match raw.profile {
            None => Profile::Common,
            Some(raw::Profile::Rfc9068) => Profile::Rfc9068,
        },
        leeway: leeway.unwrap_or(Duration::from_secs(60)),
        tier,
        // Said by the rules, once all are known.
        kept: Vec::new(),
        dpop: dpop.unwrap_or_default(),
    })
}

pub(super) fn parse_text(text: &str) -> Result<Arc<str>, String> {
    if text.is_empty() || text.len() > 2048 || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(format!(
            "`{text}` is no identifier: write 1 to 2048 characters without spaces"
        ));
    }
    Ok(text.into())
}

/// The algorithm's registered name (RFC 7518, 3.1, and RFC 8037).
fn parse_algorithm(text: &str) -> Result<Algorithm, String> {
    let names = || ALGORITHMS.iter().map(|(name, _)| *name);
    if let Some((_, algorithm)) = ALGORITHMS.iter().find(|(name, _)| *name == text) {
        return Ok(*algorithm);
    }
    let upper = text.to_uppercase();
    if upper.starts_with("HS") {
        return Err(format!(
            "`{text}` is refused: whoever can verify it can also forge tokens, and a public key taken for its secret lets anybody (RFC 8725, 3.1): use ES256 or another asymmetric algorithm"
        ));
    }
    if upper == "NONE" {
        return Err(format!(
            "`{text}` is refused: tokens without a signature prove nothing (RFC 8725, 3.1): use ES256 or another asymmetric algorithm"
        ));
    }
    let listed: Vec<&str> = names().collect();
    Err(match nearest(text, names()) {
        Some(near) => format!("`{text}` is no algorithm that is accepted: did you mean {near}?"),
        None => format!(
            "`{text}` is no algorithm that is accepted: write one of {}",
            listed.join(", ")
        ),
    })
}

/// A `typ`: compared without case, and `application/` may be left out (RFC 7515, 4.1.9).
fn parse_type(text: &str) -> Result<Arc<str>, String> {
    let lower = text.to_ascii_lowercase();
    let short = lower.strip_prefix("application/").unwrap_or(&lower);
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_');
    if short.is_empty() || !short.chars().all(valid) {
        return Err(format!("`{text}` is no media type: write it like at+jwt or jwt"));
    }
    Ok(short.into())
}

/// By its keys or by itself.
fn checked_by(
    keys: Option<raw::Jwks>,
    introspection: Option<raw::Introspection>,
    at: &Place<'_>,
) -> Option<CheckedBy> {
    if !at.mentions("introspection") {
        return at.required("jwks", keys, jwks).map(CheckedBy::Keys);
    }
    if at.mentions("jwks") {
        at.field("introspection").error_with(
            "tokens are checked by `jwks` or by `introspection`, not by both",
            "leave one out: with `jwks` the gateway checks signatures itself, with `introspection` it asks the issuer",
        );
        return None;
    }
    at.optional("introspection", introspection, tokens::introspection)
        .map(CheckedBy::Introspection)
}

fn jwks(raw: raw::Jwks, at: &Place<'_>) -> Option<Jwks> {
    let refresh = duration_within(Duration::from_secs(10), Duration::from_secs(86_400));
    let refresh = at.optional("refresh", raw.refresh, refresh);
    let ca = authorities(raw.ca, at);
    let source = match (raw.url, raw.file) {
        (Some(text), None) => {
            let url = parsed(parse_url)(text, &at.field("url"))?;
            check_needs(ca.is_some(), &url, at);
            Some(JwksSource::Url { url, ca })
        }
        (None, Some(file)) => {
            if ca.is_some() {
                at.field("ca")
                    .error("`ca` is about a url, and this is a file: leave one out");
            }
            let path = at.beside(&file);
            if !path.is_file() {
                at.field("file").warning(
                    format!("there is no file {} yet", path.display()),
                    "until it is there, no token of this issuer is valid",
                );
            }
            Some(JwksSource::File(path))
        }
        (Some(_), Some(_)) => {
            at.error("keys come from `url` or from `file`, not both: leave one out");
            None
        }
        (None, None) => {
            if !at.mentions("url") && !at.mentions("file") {
                at.error_with(
                    "it says not where the keys are",
                    "write `url: https://…` or `file: …`",
                );
            }
            None
        }
    };
    Some(Jwks {
        source: source?,
        refresh: refresh.unwrap_or(Duration::from_secs(600)),
    })
}

/// The file of `ca`, which must be there.
pub(super) fn authorities(file: Option<String>, at: &Place<'_>) -> Option<PathBuf> {
    let path = at.beside(&file?);
    if !path.is_file() {
        at.field("ca")
            .error(format!("there is no file {}", path.display()));
    }
    Some(path)
}

/// Reports authorities for an address that none are needed for.
pub(super) fn check_needs(has_authorities: bool, url: &http::Uri, at: &Place<'_>) {
    if has_authorities && url.scheme() == Some(&http::uri::Scheme::HTTP) {
        at.field("ca")
            .error("`ca` is about https, and the url is http: leave one out");
    }
}

/// What comes from there decides who is let in, so it comes over TLS or from the machine itself.
pub(super) fn parse_url(text: &str) -> Result<http::Uri, String> {
    let url: http::Uri = text
        .parse()
        .map_err(|_| format!("`{text}` is no URL: write it like https://idp.example.com/jwks"))?;
    let host = url.host().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let loopback = bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match url.scheme_str() {
        Some("https") if !host.is_empty() => Ok(url),
        Some("http") if loopback => Ok(url),
        Some("http") => Err(format!(
            "`{text}` is http, by which anybody on the way could answer: write https://, http is for loopback addresses only"
        )),
        _ => Err(format!(
            "`{text}` is no URL: write it like https://idp.example.com/jwks"
        )),
    }
}
