//! What a rule requires of requests.

use std::sync::Arc;

use super::{Known, access, api_keys, distinct_of, values};
use crate::{raw, yaml::place::Place};
use enforcer_model::{CertificateRequirement, Requirement, TokenRequirement};

pub(super) fn requirement(raw: Option<raw::Require>, at: &Place<'_>, known: &Known) -> Requirement {
    let admitting = "write `require: {mtls: {}}`, `require: {token: {issuer: …}}`, `require: {apiKey: {keys: …}}`, or `require: {anonymous: true}` to admit everybody";
    let Some(raw) = raw else {
        if !at.mentions("require") {
            at.warning("this rule requires nothing, so it admits nobody", admitting);
        }
        return Requirement::Nobody;
    };
    let at = at.field("require");
    let is_conditioned = at.mentions("from") || at.mentions("when");
    let has_proof = ["mtls", "token", "apiKey"].iter().any(|key| at.mentions(key));
    let mtls = at.optional("mtls", raw.mtls, |mtls, at| Some(certificate(mtls, at)));
    let token = at.optional("token", raw.token, |token, at| {
        token_requirement(token, at, known)
    });
    let api_key = at.optional("apiKey", raw.api_key, |key, at| {
        api_keys::requirement(key, at, known).map(Box::new)
    });
    match raw.anonymous {
        Some(_) if has_proof => {
            at.field("anonymous").error_with(
                "a rule cannot both admit everybody and ask for a proof",
                "leave `anonymous` out, or `mtls`, `token` and `apiKey`",
            );
            Requirement::Nobody
        }
        Some(true) => Requirement::Anybody,
        Some(false) | None if has_proof => Requirement::Proof { mtls, token, api_key },
        Some(false) | None => {
            if is_conditioned {
                at.error_with(
                    "`from` and `when` are about requests that somebody may send, and nothing says who may",
                    "write `anonymous: true` beside them to admit everybody whom they admit, or `mtls`, `token` or `apiKey`",
                );
            } else if !at.mentions("anonymous") || raw.anonymous.is_some() {
                at.warning("this rule requires nothing, so it admits nobody", admitting);
            }
            Requirement::Nobody
        }
    }
}

fn certificate(mut raw: raw::Mtls, at: &Place<'_>) -> CertificateRequirement {
    let names = access::names(&mut raw, at);
    let identities = raw.spiffe.map(|list| list.0);
    let authorities = raw.authority.map(|list| list.0);
    CertificateRequirement {
        authorities: values(distinct_of(at, "authority", authorities, str::parse)),
        spiffe: values(distinct_of(at, "spiffe", identities, str::parse)),
        names,
    }
}

fn token_requirement(mut raw: raw::Token, at: &Place<'_>, known: &Known) -> Option<TokenRequirement> {
    let content = access::content(&mut raw, at, known);
    let issuer = at.required("issuer", raw.issuer, |text, at| known.issuer(&text, at));
    let scopes = distinct_of(at, "scopes", raw.scopes.map(|list| list.0), parse_scope);
    Some(TokenRequirement {
        issuer: issuer?,
        scopes: values(scopes),
        content,
    })
}

/// A scope-token (RFC 6749, 3.3): printable ASCII without space, `"` and `\`.
fn parse_scope(text: &str) -> Result<Arc<str>, String> {
    if text.contains(' ') {
        return Err(format!(
            "`{text}` is several scopes: write each as an element of the list"
        ));
    }
    if text.is_empty()
        || !text
            .chars()
            .all(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\'))
    {
        return Err(format!(
            "`{text}` is no scope (RFC 6749, 3.3): write it like orders:read"
        ));
    }
    Ok(text.into())
}

/// What a rule asks for, even if how it asks is wrong.
pub(super) struct Proofs {
    pub(super) certificate: bool,
    pub(super) token: bool,
    pub(super) api_key: bool,
}

impl Proofs {
    /// What all of several rules ask for.
    pub(super) fn of_all(rules: impl Iterator<Item = Self>) -> Self {
        let all = Self {
            certificate: true,
            token: true,
            api_key: true,
        };
        rules.fold(all, |all, rule| Self {
            certificate: all.certificate && rule.certificate,
            token: all.token && rule.token,
            api_key: all.api_key && rule.api_key,
        })
    }

    pub(super) fn asked_for(require: Option<&raw::Require>, rule: &Place<'_>) -> Self {
        let at = rule.field("require");
        let unreadable = require.is_none() && rule.mentions("require");
        Self {
            certificate: unreadable || at.mentions("mtls"),
            token: unreadable || at.mentions("token"),
            api_key: unreadable || at.mentions("apiKey"),
        }
    }
}
