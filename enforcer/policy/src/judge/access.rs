//! What a rule asks of requests beside proofs.

use std::sync::Arc;

use http::{HeaderName, header};

use super::{Known, changes::field_to_service, distinct_of, mode, require::Proofs, values};
use crate::{
    cel::{self, Scope},
    raw,
    yaml::place::{Place, parsed},
};
use enforcer_model::{
    access::{
        Access, Attribute, CertificateNames, ClaimRequirement, ClaimValue, Forward, RolesRequirement,
        TokenContent,
    },
    condition::Condition,
    leaf::{ClaimPath, cidr},
};

/// The most prefixes of `from`, and the most values of a claim.
const MAX_VALUES: usize = 256;

/// The most claims of one rule.
const MAX_CLAIMS: usize = 16;

/// Takes what it judges out of the raw rule at `at`.
pub(super) fn access(raw: &mut raw::Rule, at: &Place<'_>, proofs: &Proofs) -> Access {
    let require = at.field("require");
    let from = raw.require.as_mut().and_then(|raw| raw.from.take());
    let from = distinct_of(&require, "from", from.map(|list| list.0), cidr::parse);
    if from.len() > MAX_VALUES {
        let place = require.field("from");
        place.error(format!("a rule admits at most {MAX_VALUES} prefixes"));
    }
    let when = raw.require.as_mut().and_then(|raw| raw.when.take());
    let scope = Scope {
        token: proofs.token,
        certificate: proofs.certificate,
        api_key: proofs.api_key,
    };
    Access {
        mode: raw.mode.map(|raw| mode(Some(raw))),
        from: values(from),
        forward: at
            .optional("forward", raw.forward.take(), |raw, at| {
                Some(forward(raw, at, proofs))
            })
            .unwrap_or_default(),
        when: require.optional("when", when, |text, at| condition(&text, scope, at)),
    }
}

fn forward(raw: raw::Forward, at: &Place<'_>, proofs: &Proofs) -> Forward {
    if !proofs.token {
        at.error_with(
            "it is about a token, and the rule requires none",
            "write `require: {token: {issuer: …}}`, or leave it out",
        );
    }
    let place = at.field("claims");
    let list = raw.claims.unwrap_or_default();
    if list.len() > MAX_CLAIMS {
        place.error(format!("{MAX_CLAIMS} claims are forwarded at most"));
    }
    let claims = list.into_iter().filter_map(|(name, path)| {
        let at = place.field(&name);
        let name = parsed(field_name)(&name, &at);
        let path = parsed(str::parse::<ClaimPath>)(path, &at);
        Some((name?, path?))
    });
    Forward {
        claims: claims.collect(),
        token: raw.token.unwrap_or(true),
    }
}

/// A field in which a claim may be told.
fn field_name(text: &str) -> Result<HeaderName, String> {
    let name = field_to_service(text)?;
    let taken = [header::AUTHORIZATION, header::COOKIE];
    if taken.contains(&name) || name.as_str().starts_with("content-") {
        return Err(format!(
            "`{name}` says something else: write it like x-user-email"
        ));
    }
    Ok(name)
}

fn condition(text: &str, scope: Scope, at: &Place<'_>) -> Option<Condition> {
    cel::compile(text, scope)
        .map_err(|fault| {
            let position = at.inside(text, fault.offset);
            let message = match position {
                Some(_) => fault.message,
                None => format!("at character {} of it: {}", fault.offset + 1, fault.message),
            };
            at.error_below("", position.unwrap_or(at.position()), message, fault.hint);
        })
        .ok()
}

/// Takes the names that a certificate must have out of `mtls` at `at`.
pub(super) fn names(raw: &mut raw::Mtls, at: &Place<'_>) -> CertificateNames {
    let dns = raw.dns.take().map(|list| list.0);
    let subject = at.optional("subject", raw.subject.take(), |raw, at| Some(subject(raw, at)));
    CertificateNames {
        dns: values(distinct_of(at, "dns", dns, str::parse)),
        subject: subject.unwrap_or_default(),
    }
}

fn subject(raw: raw::Subject, at: &Place<'_>) -> Vec<(Attribute, Vec<Arc<str>>)> {
    let mut wanted = Vec::new();
    for (key, attribute, list) in [
        ("cn", Attribute::CommonName, raw.cn),
        ("o", Attribute::Organization, raw.o),
        ("ou", Attribute::OrganizationalUnit, raw.ou),
    ] {
        if let Some(list) = list {
            let list = distinct_of(at, key, Some(list.0), attribute_value);
            wanted.push((attribute, values(list)));
        }
    }
    if wanted.is_empty() && at.node().entries().is_empty() {
        at.error_with(
            "it says nothing of the subject",
            "write `subject: {cn: …}`, `o` or `ou`",
        );
    }
    wanted
}

fn attribute_value(text: &str) -> Result<Arc<str>, String> {
    if text.is_empty() || text.len() > MAX_VALUES {
        return Err(format!(
            "`{text}` is no value of an attribute: write 1 to {MAX_VALUES} bytes"
        ));
    }
    Ok(text.into())
}

/// Takes what a token must say out of `token` at `at`.
pub(super) fn content(raw: &mut raw::Token, at: &Place<'_>, known: &Known) -> TokenContent {
    let issuer = raw.issuer.clone().unwrap_or_default();
    let roles = raw.roles.take().map(|list| list.0);
    let roles = values(distinct_of(at, "roles", roles, role));
    TokenContent {
        claims: raw
            .claims
            .take()
            .map(|raw| claims(raw, &at.field("claims")))
            .unwrap_or_default(),
        roles: (!roles.is_empty()).then(|| RolesRequirement {
            claim: known.roles_of(&issuer),
            all: roles,
        }),
    }
}

fn role(text: &str) -> Result<Arc<str>, String> {
    if text.is_empty() || text.len() > MAX_VALUES || text.chars().any(char::is_control) {
        return Err(format!("`{text}` is no role: write 1 to {MAX_VALUES} bytes"));
    }
    Ok(text.into())
}

fn claims(raw: raw::Claims, at: &Place<'_>) -> Vec<ClaimRequirement> {
    if raw.is_empty() && at.node().entries().is_empty() {
        at.error_with("it says nothing of the claims", "write `claims: {NAME: VALUE}`");
    }
    if raw.len() > MAX_CLAIMS {
        at.error(format!("a rule looks at {MAX_CLAIMS} claims at most"));
    }
    raw.into_iter()
        .filter_map(|(name, raw::ClaimValues(list))| {
            let place = at.field(&name);
            let path = parsed(str::parse::<ClaimPath>)(&name, &place)?;
            if list.is_empty() && place.items().is_empty() {
                place.error("the list is empty: name at least one value");
            }
            if list.len() > MAX_VALUES {
                place.error(format!("a claim is compared with {MAX_VALUES} values at most"));
            }
            let values = list.into_iter().map(value).collect();
            Some(ClaimRequirement { path, values })
        })
        .collect()
}

fn value(raw: raw::ClaimValue) -> ClaimValue {
    match raw {
        raw::ClaimValue::Text(text) => ClaimValue::Text(text.into()),
        raw::ClaimValue::Integer(number) => ClaimValue::Integer(number),
        raw::ClaimValue::Float(number) => ClaimValue::Float(number),
        raw::ClaimValue::Bool(value) => ClaimValue::Bool(value),
    }
}
