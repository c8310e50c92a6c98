//! Whom a rule admits, beside the proofs that it asks for: by where requests come from, and by what certificates
//! and tokens say.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use http::HeaderName;
use ipnet::IpNet;
use serde_json::Value;

use super::leaf::{ClaimPath, DnsPattern, Name};
use crate::{Mode, PolicySet, Requirement, Route, Rule, TokenRequirement, condition::Condition};

/// What a rule asks of requests beside proofs.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// `None`: the route's.
    pub mode: Option<Mode>,
    /// Empty: from everywhere.
    pub from: Vec<IpNet>,
    /// Judged last, when the proofs are known.
    pub when: Option<Condition>,
    pub forward: Forward,
}

/// What the service is told of the verified token.
#[derive(Clone, Debug)]
pub struct Forward {
    /// In which fields which claims.
    pub claims: Vec<(HeaderName, ClaimPath)>,
    /// Whether the client's `authorization` field goes with the request.
    pub token: bool,
}

impl Default for Forward {
    fn default() -> Self {
        Self {
            claims: Vec::new(),
            token: true,
        }
    }
}

impl Access {
    /// Whether a request may come from `source`.
    #[must_use]
    pub fn admits_source(&self, source: IpAddr) -> bool {
        self.from.is_empty() || self.from.iter().any(|prefix| prefix.contains(&source))
    }
}

impl Rule {
    /// Whether its verdicts are carried out; `route` is the one that it is of.
    #[must_use]
    pub fn mode(&self, route: &Route) -> Mode {
        self.access.mode.unwrap_or(route.mode)
    }
}

/// Names of which a client certificate must have some. All that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateNames {
    /// One of them must be a DNS name of the certificate. Empty: any.
    pub dns: Vec<DnsPattern>,
    /// Attributes of the subject, of each the values of which the certificate must have one.
    pub subject: Vec<(Attribute, Vec<Arc<str>>)>,
}

/// An attribute of a subject (RFC 4519).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    CommonName,
    Organization,
    OrganizationalUnit,
}

/// What a token must say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenContent {
    /// All of them.
    pub claims: Vec<ClaimRequirement>,
    pub roles: Option<RolesRequirement>,
}

/// What a claim must be, or contain if it is an array.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimRequirement {
    pub path: ClaimPath,
    /// One of them. At least one.
    pub values: Vec<ClaimValue>,
}

/// A value that a claim is compared with.
#[derive(Clone, Debug, PartialEq)]
pub enum ClaimValue {
    Text(Arc<str>),
    Integer(i128),
    /// A number with a fraction.
    Float(f64),
    Bool(bool),
}

impl ClaimValue {
    /// Whether `value` is the same. Numbers are compared as numbers, and never with texts.
    #[must_use]
    pub fn is(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Text(text), Value::String(other)) => **text == **other,
            (Self::Bool(one), Value::Bool(other)) => one == other,
            (Self::Integer(one), Value::Number(other)) => match other.as_i128() {
                Some(other) => *one == other,
                // Written with a fraction, which may be zero; one that large is no integer exactly.
                #[expect(clippy::cast_precision_loss, reason = "compared only below 2^53")]
                None => one.unsigned_abs() < 1 << 53 && other.as_f64() == Some(*one as f64),
            },
            (Self::Float(one), Value::Number(other)) => other.as_f64() == Some(*one),
            _ => false,
        }
    }
}

impl ClaimRequirement {
    /// Whether a token's claim is one of the values, or an array that contains one.
    #[must_use]
    pub fn admits(&self, value: &Value) -> bool {
        let is_one = |value: &Value| self.values.iter().any(|wanted| wanted.is(value));
        match value {
            Value::Array(elements) => elements.iter().any(is_one),
            value => is_one(value),
        }
    }
}

/// Roles that a token must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolesRequirement {
    /// Where the issuer writes them.
    pub claim: ClaimPath,
    /// All of them. At least one.
    pub all: Vec<Arc<str>>,
}

/// Whether a claim names `role`: an array of names or of objects with a `value` (RFC 9068, section 2.2.3.1; RFC
/// 7643, section 4.1.2), or one name.
#[must_use]
pub fn names_role(claim: &Value, role: &str) -> bool {
    let is = |value: &Value| match value {
        Value::String(name) => name == role,
        Value::Object(members) => members.get("value").and_then(Value::as_str) == Some(role),
        _ => false,
    };
    match claim {
        Value::Array(elements) => elements.iter().any(is),
        Value::String(name) => name == role,
        _ => false,
    }
}

/// The claims that rules look at in tokens of `issuer`, each once, in order.
#[must_use]
pub fn claims_of(set: &PolicySet, issuer: &Name) -> Vec<ClaimPath> {
    let rules = set.routes.iter().flat_map(|route| &route.rules);
    let mut paths = BTreeSet::new();
    for rule in rules {
        if let Requirement::Proof {
            token: Some(TokenRequirement {
                issuer: of, content, ..
            }),
            ..
        } = &rule.require
            && of == issuer
        {
            paths.extend(content.claims.iter().map(|claim| claim.path.clone()));
            paths.extend(content.roles.iter().map(|roles| roles.claim.clone()));
            paths.extend(rule.access.forward.claims.iter().map(|(_, path)| path.clone()));
            paths.extend(rule.access.when.iter().flat_map(Condition::claims).cloned());
        }
    }
    paths.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_are_compared_by_type_and_value() {
        let text = ClaimValue::Text("1".into());
        let number = ClaimValue::Integer(1);
        let wanted = |value: ClaimValue| ClaimRequirement {
            path: "a".parse().unwrap(),
            values: vec![value],
        };
        for (value, claim, admitted) in [
            (text.clone(), json!("1"), true),
            (text.clone(), json!(1), false),
            (text.clone(), json!(["0", "1"]), true),
            (text.clone(), json!([["1"]]), false),
            (text, json!({"1": "1"}), false),
            (number.clone(), json!(1), true),
            (number.clone(), json!(1.0), true),
            (number.clone(), json!(1.5), false),
            (number.clone(), json!("1"), false),
            (number.clone(), json!(true), false),
            (number, json!([]), false),
            (ClaimValue::Integer(-5), json!(-5), true),
            (ClaimValue::Integer(i128::from(u64::MAX)), json!(u64::MAX), true),
            (
                ClaimValue::Integer(1 << 60),
                json!(1_152_921_504_606_846_976.0),
                false,
            ),
            (ClaimValue::Float(1.5), json!(1.5), true),
            (ClaimValue::Float(1.5), json!(1), false),
            (ClaimValue::Bool(true), json!(true), true),
            (ClaimValue::Bool(true), json!("true"), false),
            (ClaimValue::Bool(false), json!(null), false),
        ] {
            assert_eq!(
                wanted(value.clone()).admits(&claim),
                admitted,
                "{value:?} {claim}"
            );
        }
    }

    #[test]
    fn roles_are_names_or_objects() {
        for (claim, named) in [
            (json!(["a", "admin"]), true),
            (json!([{"value": "admin", "primary": true}]), true),
            (json!("admin"), true),
            (json!("admin other"), false),
            (json!(["Admin", "administrator"]), false),
            (json!({"value": "admin"}), false),
            (json!([["admin"]]), false),
            (json!(null), false),
        ] {
            assert_eq!(names_role(&claim, "admin"), named, "{claim}");
        }
    }
}
