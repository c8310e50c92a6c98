//! Values that may be written in more than one way.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use super::Action;

/// A whole number, or text such as `40k` or `64KiB`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quantity(pub(crate) String);

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct QuantityVisitor;
        impl Visitor<'_> for QuantityVisitor {
            type Value = Quantity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number, or one with a unit")
            }

            fn visit_u64<E>(self, value: u64) -> Result<Quantity, E> {
                Ok(Quantity(value.to_string()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Quantity, E> {
                Ok(Quantity(value.to_string()))
            }

            fn visit_str<E>(self, text: &str) -> Result<Quantity, E> {
                Ok(Quantity(text.to_owned()))
            }
        }
        deserializer.deserialize_any(QuantityVisitor)
    }
}

/// Text of a form that messages can name: a number that stands in its place lacks a unit, not quotes.
#[derive(Clone, Debug)]
pub(crate) struct Text<F>(String, PhantomData<F>);

/// What a [`Text`] looks like.
pub(crate) trait Form {
    const LIKE: &'static str;
}

/// `100/s`.
#[derive(Clone, Debug)]
pub(crate) enum RateForm {}

/// `1m30s`.
#[derive(Clone, Debug)]
pub(crate) enum DurationForm {}

/// `tcp/443`.
#[derive(Clone, Debug)]
pub(crate) enum PortForm {}

pub(crate) type Rate = Text<RateForm>;
pub(crate) type Duration = Text<DurationForm>;
pub(crate) type Port = Text<PortForm>;

impl Form for RateForm {
    const LIKE: &'static str = "a rate like 100/s";
}

impl Form for DurationForm {
    const LIKE: &'static str = "a duration like 200ms, 10s or 1m30s";
}

impl Form for PortForm {
    const LIKE: &'static str = "a port like tcp/443";
}

impl<F> AsRef<str> for Text<F> {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl<'de, F: Form> Deserialize<'de> for Text<F> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor<F>(PhantomData<F>);
        impl<F: Form> Visitor<'_> for TextVisitor<F> {
            type Value = Text<F>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(F::LIKE)
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<F>, E> {
                Ok(Text(text.to_owned(), PhantomData))
            }
        }
        deserializer.deserialize_any(TextVisitor(PhantomData))
    }
}

/// A list, or one element of it alone.
#[derive(Clone, Debug)]
pub(crate) struct OneOrMany<T>(pub(crate) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one value or a list of them")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OneOrMany<T>, E> {
                T::deserialize(de::value::StrDeserializer::new(text)).map(|one| OneOrMany(vec![one]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMany<T>, A::Error> {
                let mut many = Vec::new();
                while let Some(one) = list.next_element()? {
                    many.push(one);
                }
                Ok(OneOrMany(many))
            }
        }
        deserializer.deserialize_any(ListVisitor(PhantomData))
    }
}

/// A denied prefix: text, or a mapping.
#[derive(Debug, Default)]
pub(crate) struct DenyEntry {
    pub(crate) cidr: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) until: Option<String>,
    pub(crate) action: Option<Action>,
}

impl<'de> Deserialize<'de> for DenyEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Full {
            cidr: Option<String>,
            reason: Option<String>,
            until: Option<String>,
            action: Option<Action>,
        }
        struct EntryVisitor;
        impl<'de> Visitor<'de> for EntryVisitor {
            type Value = DenyEntry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a prefix like 198.51.100.0/24, or {cidr, reason, until, action}")
            }

            fn visit_str<E>(self, text: &str) -> Result<DenyEntry, E> {
                Ok(DenyEntry {
                    cidr: Some(text.to_owned()),
                    ..DenyEntry::default()
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<DenyEntry, A::Error> {
                let Full {
                    cidr,
                    reason,
                    until,
                    action,
                } = Full::deserialize(MapAccessDeserializer::new(map))?;
                Ok(DenyEntry {
                    cidr,
                    reason,
                    until,
                    action,
                })
            }
        }
        deserializer.deserialize_any(EntryVisitor)
    }
}
