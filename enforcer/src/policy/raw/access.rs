//! What rules ask of requests beside proofs, as it is written.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, SeqAccess, Visitor},
};

use super::OneOrMany;

/// `require.mtls.subject`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Subject {
    pub(crate) cn: Option<OneOrMany<String>>,
    pub(crate) o: Option<OneOrMany<String>>,
    pub(crate) ou: Option<OneOrMany<String>>,
}

/// `forward`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Forward {
    /// Names of header fields, and paths of claims.
    pub(crate) claims: Option<BTreeMap<String, String>>,
    pub(crate) token: Option<bool>,
}

/// `require.token.claims`: paths, and what is wanted there.
pub(crate) type Claims = BTreeMap<String, ClaimValues>;

/// A value, or several of which one will do.
#[derive(Debug)]
pub(crate) struct ClaimValues(pub(crate) Vec<ClaimValue>);

/// A value that a claim is compared with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ClaimValue {
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
