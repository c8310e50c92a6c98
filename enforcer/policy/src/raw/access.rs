//! What rules ask of requests beside proofs, as it is written.

use std::{collections::BTreeMap, fmt};

use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer,
    de::{self, SeqAccess, Visitor},
};

use super::OneOrMany;

/// `require.mtls.subject`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// Common names, of which it must have one.
    ///
    /// - default: any
    /// - range: 1 to 256 bytes each
    /// - example: `alice`
    pub cn: Option<OneOrMany<String>>,
    /// Organizations, of which it must have one.
    ///
    /// - default: any
    /// - range: 1 to 256 bytes each
    /// - example: `[Example, Example Ltd]`
    pub o: Option<OneOrMany<String>>,
    /// Organizational units, of which it must have one.
    ///
    /// - default: any
    /// - range: 1 to 256 bytes each
    /// - example: `[Finance, Audit]`
    pub ou: Option<OneOrMany<String>>,
}

/// `forward`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// Header fields, and the paths of the claims that they tell.
    ///
    /// - default: none
    /// - range: up to 16
    /// - example: `{x-user-email: email, x-user-roles: realm_access.roles}`
    pub claims: Option<BTreeMap<String, String>>,
    /// Whether the service gets the client's `authorization`.
    ///
    /// - default: `true`
    /// - example: `false`
    pub token: Option<bool>,
}

/// `require.token.claims`: paths, and what is wanted there.
pub type Claims = BTreeMap<String, ClaimValues>;

/// A value, or several of which one will do.
#[derive(Debug)]
pub struct ClaimValues(pub Vec<ClaimValue>);

/// A value that a claim is compared with.
#[derive(Clone, Debug, PartialEq)]
pub enum ClaimValue {
    Text(String),
    Integer(i128),
    Float(f64),
    Bool(bool),
}

/// What both may be.
const EXPECTED: &str = "a text, a number, true or false";

struct ValueVisitor;

impl Visitor<'_> for ValueVisitor {
    type Value = ClaimValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_bool<E>(self, value: bool) -> Result<ClaimValue, E> {
        Ok(ClaimValue::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<ClaimValue, E> {
        Ok(ClaimValue::Integer(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<ClaimValue, E> {
        Ok(ClaimValue::Integer(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<ClaimValue, E> {
        Ok(ClaimValue::Float(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<ClaimValue, E> {
        Ok(ClaimValue::Text(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for ClaimValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

impl<'de> Deserialize<'de> for ClaimValues {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValuesVisitor;
        impl<'de> Visitor<'de> for ValuesVisitor {
            type Value = ClaimValues;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{EXPECTED}, or a list of them")
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<ClaimValues, E> {
                ValueVisitor.visit_bool(value).map(one)
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<ClaimValues, E> {
                ValueVisitor.visit_u64(value).map(one)
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<ClaimValues, E> {
                ValueVisitor.visit_i64(value).map(one)
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<ClaimValues, E> {
                ValueVisitor.visit_f64(value).map(one)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ClaimValues, E> {
                ValueVisitor.visit_str(text).map(one)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<ClaimValues, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = list.next_element()? {
                    values.push(value);
                }
                Ok(ClaimValues(values))
            }
        }
        deserializer.deserialize_any(ValuesVisitor)
    }
}

fn one(value: ClaimValue) -> ClaimValues {
    ClaimValues(vec![value])
}
