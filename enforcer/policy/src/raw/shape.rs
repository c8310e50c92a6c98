//! Values that may be written in more than one way.

use std::{borrow::Cow, fmt, marker::PhantomData};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use super::{Action, Prefix};

/// A whole number, or text such as `40k` or `64KiB`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantity(pub String);

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
pub struct Text<F>(String, PhantomData<F>);

/// What a [`Text`] looks like.
pub trait Form {
    const LIKE: &'static str;
    /// What the reference calls it.
    const NAME: &'static str;
    /// What a schema lets through; whether the value can be is the loader's to say.
    const PATTERN: &'static str;
}

/// `100/s`.
#[derive(Clone, Debug)]
pub enum RateForm {}

/// `1m30s`.
#[derive(Clone, Debug)]
pub enum DurationForm {}

/// `tcp/443`.
#[derive(Clone, Debug)]
pub enum PortForm {}

/// `tcp/443`, `udp`, `icmp`.
#[derive(Clone, Debug)]
pub enum EgressPortForm {}

pub type Rate = Text<RateForm>;
pub type Duration = Text<DurationForm>;
pub type Port = Text<PortForm>;
pub type EgressPort = Text<EgressPortForm>;

impl Form for RateForm {
    const LIKE: &'static str = "a rate like 100/s";
    const NAME: &'static str = "rate";
    const PATTERN: &'static str = "^[0-9]+[A-Za-z]*/[0-9a-z]+$";
}

impl Form for DurationForm {
    const LIKE: &'static str = "a duration like 200ms, 10s or 1m30s";
    const NAME: &'static str = "duration";
    const PATTERN: &'static str = "^([0-9]+(d|h|m|s|ms))+$";
}

impl Form for PortForm {
    const LIKE: &'static str = "a port like tcp/443";
    const NAME: &'static str = "port";
    const PATTERN: &'static str = "^(tcp|udp)/[0-9]{1,5}$";
}

impl Form for EgressPortForm {
    const LIKE: &'static str = "a protocol or port like tcp/443, udp or icmp";
    const NAME: &'static str = "protocol or port";
    const PATTERN: &'static str = "^((tcp|udp)(/[0-9]{1,5})?|icmp)$";
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
pub struct OneOrMany<T>(pub Vec<T>);

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

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OneOrMany<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|one| OneOrMany(vec![one]))
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

/// A prefix: text, or a mapping with `cidr` and more.
macro_rules! entry {
    ($(#[$doc:meta])* $name:ident { $(#[$cidr_doc:meta])+ cidr, $($(#[$field_doc:meta])+ $field:ident: $type:ty),* }, $like:literal) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $name {
            pub cidr: Option<String>,
            $(pub $field: Option<$type>,)*
        }

        const _: () = {
            #[derive(Deserialize, JsonSchema)]
            #[serde(deny_unknown_fields)]
            struct Full {
                $(#[$cidr_doc])+
                cidr: Option<String>,
                $($(#[$field_doc])+ $field: Option<$type>,)*
            }

            impl<'de> Deserialize<'de> for $name {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    struct EntryVisitor;
                    impl<'de> Visitor<'de> for EntryVisitor {
                        type Value = $name;

                        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                            f.write_str($like)
                        }

                        fn visit_str<E>(self, text: &str) -> Result<$name, E> {
                            Ok($name {
                                cidr: Some(text.to_owned()),
                                ..$name::default()
                            })
                        }

                        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<$name, A::Error> {
                            let Full { cidr, $($field,)* } = Full::deserialize(MapAccessDeserializer::new(map))?;
                            Ok($name { cidr, $($field,)* })
                        }
                    }
                    deserializer.deserialize_any(EntryVisitor)
                }
            }

            impl JsonSchema for $name {
                fn inline_schema() -> bool {
                    true
                }

                fn schema_name() -> Cow<'static, str> {
                    stringify!($name).into()
                }

                fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                    json_schema!({"anyOf": [{"type": "string", "x-type": "prefix"}, Full::json_schema(generator)]})
                }
            }
        };
    };
}

entry!(
    /// A denied prefix.
    DenyEntry {
        /// The denied sources.
        ///
        /// - required
        /// - example: `198.51.100.0/24`
        cidr,
        /// Why, for people.
        ///
        /// - default: none
        /// - range: one line of at most 256 bytes
        /// - example: `abuse 4711`
        reason: String,
        /// When the entry ends.
        ///
        /// - default: never
        /// - range: a time (RFC 3339)
        /// - example: `"2099-01-01T00:00:00Z"`
        until: String,
        /// What becomes of the packets.
        ///
        /// - default: the policy's `action`
        /// - example: `reset`
        action: Action,
        /// Yes, the list covers all sources of the entry's family, and nothing is allowed.
        ///
        /// - default: `false`
        /// - example: `true`
        everything: bool
    },
    "a prefix like 198.51.100.0/24, or {cidr, reason, until, action, everything}"
);
entry!(
    /// Destinations that may be reached.
    EgressAllow {
        /// The destinations.
        ///
        /// - required
        /// - example: `10.0.0.0/8`
        cidr,
        /// Their ports.
        ///
        /// - default: all that is sent there
        /// - example: `[tcp/443, icmp]`
        ports: OneOrMany<EgressPort>
    },
    "a prefix like 10.0.0.0/8, or {cidr, ports}"
);
entry!(
    /// Destinations that may not be reached.
    EgressDeny {
        /// The destinations.
        ///
        /// - required
        /// - example: `169.254.169.254/32`
        cidr,
        /// Their ports.
        ///
        /// - default: all that is sent there
        /// - example: `tcp/80`
        ports: OneOrMany<EgressPort>,
        /// Why, for people.
        ///
        /// - default: none
        /// - range: one line of at most 256 bytes
        /// - example: `cloud metadata`
        reason: String,
        /// When the entry ends.
        ///
        /// - default: never
        /// - range: a time (RFC 3339)
        /// - example: `"2099-01-01T00:00:00Z"`
        until: String,
        /// Yes, the list covers all destinations of the entry's family, and nothing is allowed.
        ///
        /// - default: `false`
        /// - example: `true`
        everything: bool
    },
    "a prefix like 198.51.100.0/24, or {cidr, ports, reason, until, everything}"
);

/// A limit's prefix, or several.
#[derive(Debug)]
pub struct Prefixes(pub Vec<Prefix>);

impl<'de> Deserialize<'de> for Prefixes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PrefixesVisitor;
        impl<'de> Visitor<'de> for PrefixesVisitor {
            type Value = Prefixes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("{ipv4, ipv6, times}, or a list of them")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Prefixes, A::Error> {
                Prefix::deserialize(MapAccessDeserializer::new(map)).map(|one| Prefixes(vec![one]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Prefixes, A::Error> {
                let mut prefixes = Vec::new();
                while let Some(prefix) = list.next_element()? {
                    prefixes.push(prefix);
                }
                Ok(Prefixes(prefixes))
            }
        }
        deserializer.deserialize_any(PrefixesVisitor)
    }
}

/// `verified.recent`: `off`, or a mapping.
#[derive(Debug)]
pub enum Recent {
    Off,
    Share(RecentShare),
}

/// The share of a source that was verified recently.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecentShare {
    /// Packets of one source.
    ///
    /// - required
    /// - range: a rate of packets
    /// - example: `50/s`
    pub rate: Option<Rate>,
    /// Packets that may come at once.
    ///
    /// - default: what comes in one second
    /// - range: packets, from 1
    /// - example: `100`
    pub burst: Option<Quantity>,
    /// How long the share is kept after the source's last verified connection.
    ///
    /// - default: `10m`
    /// - range: 1m to 1d
    /// - example: `1h`
    #[serde(rename = "for")]
    pub lasts: Option<Duration>,
}

impl<'de> Deserialize<'de> for Recent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RecentVisitor;
        impl<'de> Visitor<'de> for RecentVisitor {
            type Value = Recent;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`off`, or {rate, burst, for}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Recent, E> {
                match text {
                    "off" => Ok(Recent::Off),
                    other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Recent, A::Error> {
                RecentShare::deserialize(MapAccessDeserializer::new(map)).map(Recent::Share)
            }
        }
        deserializer.deserialize_any(RecentVisitor)
    }
}
