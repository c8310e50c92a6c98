//! The names that conditions may use, and what they stand for.

use cel::{
    IdedExpr,
    common::ast::{Expr, LiteralValue, operators},
};
use http::HeaderName;

use super::{
    Fault,
    check::{Checker, Type},
};
use crate::yaml::mistake::{alternatives, nearest};
use enforcer_model::condition::Place;
use enforcer_model::leaf::ClaimPath;

const REQUEST: [&str; 6] = ["method", "path", "host", "source", "headers", "query"];
const TOKEN: [&str; 5] = ["iss", "sub", "client_id", "scopes", "claims"];
const CERTIFICATE: [&str; 4] = ["spiffe", "dns", "subject", "serial"];
const API_KEY: [&str; 4] = ["id", "owner", "tier", "roles"];
const ROOTS: [&str; 4] = ["request", "token", "certificate", "apiKey"];

/// What a chain of names stands for.
pub(super) enum Named {
    Place(Place, Type),
    /// `request.headers`, `request.query` or `token.claims`: a member of it can be asked for, and no more.
    Map(Map),
}

/// What has members that are named in quotes.
#[derive(Clone, Copy)]
pub(super) enum Map {
    Headers,
    Query,
    Claims,
}

/// A step from a value to its member.
pub(super) struct Step<'a> {
    name: &'a str,
    offset: usize,
}

impl Checker<'_> {
    /// What `expression` names; `None` if it is no chain of names.
    pub(super) fn named(&self, expression: &IdedExpr) -> Result<Option<Named>, Fault> {
        let mut steps = Vec::new();
        let mut inner = expression;
        loop {
            let offset = self.offset(inner);
            match &inner.expr {
                Expr::Ident(name) => {
                    steps.push(Step { name, offset });
                    break;
                }
                Expr::Select(select) if !select.test => {
                    steps.push(Step {
                        name: &select.field,
                        offset,
                    });
                    inner = &select.operand;
                }
                Expr::Call(call) if call.func_name == operators::INDEX && call.args.len() == 2 => {
                    let [map, key] = &call.args[..] else {
                        return Ok(None);
                    };
                    steps.push(self.key(key)?);
                    inner = map;
                }
                _ => return Ok(None),
            }
        }
        steps.reverse();
        self.resolve(&steps).map(Some)
    }

    /// A key in brackets, which must be a text that is known now.
    pub(super) fn key<'a>(&self, key: &'a IdedExpr) -> Result<Step<'a>, Fault> {
        let offset = self.offset(key);
        match &key.expr {
            Expr::Literal(LiteralValue::String(name)) => Ok(Step {
                name: name.inner(),
                offset,
            }),
            _ => Err(Fault::new(offset, "a key is a text in quotes here")
                .with_hint("write it like request.headers[\"x-name\"]")),
        }
    }

    fn resolve(&self, steps: &[Step<'_>]) -> Result<Named, Fault> {
        let (root, rest) = steps
            .split_first()
            .ok_or_else(|| Fault::new(0, "nothing is named here"))?;
        let known: &[&str] = match root.name {
            "request" => &REQUEST,
            "token" if !self.scope.token => {
                return Err(
                    Fault::new(root.offset, "the rule requires no token, so that there is none")
                        .with_hint("write `token: {issuer: …}` beside `when`"),
                );
            }
            "token" => &TOKEN,
            "certificate" if !self.scope.certificate => {
                return Err(Fault::new(
                    root.offset,
                    "the rule requires no client certificate, so that there may be none",
                )
                .with_hint("write `mtls: {}` beside `when`"));
            }
            "certificate" => &CERTIFICATE,
            "apiKey" if !self.scope.api_key => {
                return Err(
                    Fault::new(root.offset, "the rule requires no API key, so that there is none")
                        .with_hint("write `apiKey: {keys: …}` beside `when`"),
                );
            }
            "apiKey" => &API_KEY,
            other => return Err(unknown(root.offset, other, &ROOTS)),
        };
        let Some((field, rest)) = rest.split_first() else {
            let what = format!("`{}` alone is no value", root.name);
            return Err(Fault::new(root.offset, what)
                .with_hint(format!("it has {}", alternatives(known.iter().copied()))));
        };
        let claim = |names: &[Step<'_>]| {
            let names = names.iter().map(|step| step.name.into()).collect();
            Named::Place(Place::Claim(ClaimPath::of(names)), Type::Dynamic)
        };
        let (place, kind) = match (root.name, field.name) {
            ("request", "method") => (Place::Method, Type::Text),
            ("request", "path") => (Place::Path, Type::Text),
            ("request", "host") => (Place::Host, Type::Text),
            ("request", "source") => (Place::Source, Type::Address),
            ("request", "headers") => return self.member(Map::Headers, field, rest),
            ("request", "query") => return self.member(Map::Query, field, rest),
            ("token", "iss") => (Place::Claim(ClaimPath::of(vec!["iss".into()])), Type::Text),
            ("token", "sub") => (Place::Subject, Type::Text),
            ("token", "client_id") => (Place::Client, Type::Text),
            ("token", "scopes") => (Place::Scopes, Type::Texts),
            ("token", "claims") if rest.is_empty() => return Ok(Named::Map(Map::Claims)),
            ("token", "claims") => return Ok(claim(rest)),
            ("certificate", "spiffe") => (Place::Spiffe, Type::Text),
            ("certificate", "dns") => (Place::DnsNames, Type::Texts),
            ("certificate", "subject") => (Place::CertificateSubject, Type::Text),
            ("certificate", "serial") => (Place::Serial, Type::Text),
            ("apiKey", "id") => (Place::KeyId, Type::Text),
            ("apiKey", "owner") => (Place::KeyOwner, Type::Text),
            ("apiKey", "tier") => (Place::KeyTier, Type::Text),
            ("apiKey", "roles") => (Place::KeyRoles, Type::Texts),
            (_, other) => return Err(unknown(field.offset, other, known)),
        };
        match rest.first() {
            None => Ok(Named::Place(place, kind)),
            Some(step) => Err(Fault::new(
                step.offset,
                format!("`{}` has no members", field.name),
            )),
        }
    }

    fn member(&self, map: Map, field: &Step<'_>, rest: &[Step<'_>]) -> Result<Named, Fault> {
        match rest {
            [] => Ok(Named::Map(map)),
            [key] => self
                .place_in(map, key)
                .map(|place| Named::Place(place, Type::Text)),
            [_, step, ..] => Err(Fault::new(
                step.offset,
                format!("members of `{}` are texts, which have no members", field.name),
            )),
        }
    }

    /// The member of a map that a key names.
    pub(super) fn place_in(&self, map: Map, key: &Step<'_>) -> Result<Place, Fault> {
        match map {
            Map::Query => Ok(Place::Query(key.name.into())),
            Map::Claims => Ok(Place::Claim(ClaimPath::of(vec![key.name.into()]))),
            Map::Headers => {
                let lower = key.name.to_ascii_lowercase();
                match HeaderName::from_bytes(key.name.as_bytes()) {
                    Ok(name) if lower == key.name => Ok(Place::Header(name)),
                    Ok(_) => Err(Fault::new(
                        key.offset,
                        format!("names of headers are in lower case: write \"{lower}\""),
                    )),
                    Err(_) => Err(Fault::new(
                        key.offset,
                        format!("`{}` is no name of a header", key.name),
                    )),
                }
            }
        }
    }
}

fn unknown(offset: usize, name: &str, known: &[&str]) -> Fault {
    let hint = match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known here: {}", alternatives(known.iter().copied())),
    };
    Fault::new(offset, format!("`{name}` is not known")).with_hint(hint)
}
