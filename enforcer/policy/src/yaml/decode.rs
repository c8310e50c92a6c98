//! Reads plain serde structures from a [`Node`], reporting everything that does not fit.
//!
//! A serde structure stops at its first error. So each error marks the node that it came from as
//! broken, and the structure is read again without it, until it fits: fields are optional in the raw
//! structures, and lists leave broken elements out.

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess,
    SeqAccess, VariantAccess, Visitor, value::StrDeserializer,
};

use super::{
    mistake::{Mistake, alternatives, misfit},
    place::Place,
    tree::{Entry, Node, Value},
};

/// The most mistakes that one document is read again for.
const MAX_MISTAKES: usize = 100;

/// Reads `T` from the node at `place`. `None` when nothing of it can be used.
pub fn decode<T: DeserializeOwned>(place: &Place<'_>) -> Option<T> {
    for _ in 0..MAX_MISTAKES {
        match T::deserialize(place.node()) {
            Ok(value) => return Some(value),
            Err(mistake) => {
                let at_top = mistake.position.is_none();
                let position = mistake.position.unwrap_or(place.position());
                place.error_below(&mistake.path, position, mistake.message, mistake.hint);
                if at_top {
                    place.node().broken.set(true);
                    return None;
                }
            }
        }
    }
    place.error("there are too many mistakes to go on: mend these first");
    None
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = Mistake;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match &self.value {
            Value::Null => Err(misfit(self, &visitor)),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Unsigned(value) => visitor.visit_u64(*value),
            Value::Signed(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::List(nodes) => visitor.visit_seq(List {
                nodes: nodes.iter().enumerate(),
            }),
            Value::Map(entries) => visitor.visit_map(Map {
                entries: entries.iter(),
                current: None,
            }),
        }
    }

    /// Absent is absent: a field that is written without a value is a mistake, for nobody can say
    /// whether it was meant to hold nothing or anything.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        visitor.visit_some(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        visitor.visit_unit()
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.value {
            Value::Bool(_) => self.deserialize_any(visitor),
            _ => Err(misfit(self, &visitor)),
        }
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.value {
            Value::Unsigned(_) => self.deserialize_any(visitor),
            _ => Err(misfit(self, &"u32")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.value {
            Value::Text(_) => self.deserialize_any(visitor),
            _ => Err(misfit(self, &visitor)),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.value {
            Value::List(_) => self.deserialize_any(visitor),
            _ => Err(misfit(self, &visitor)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        match self.value {
            Value::Map(_) => self.deserialize_any(visitor),
            _ => Err(misfit(self, &visitor)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        match &self.value {
            Value::Text(text) => visitor.visit_enum(Choice {
                key: text,
                node: None,
            }),
            Value::Map(entries) if entries.len() == 1 => visitor.visit_enum(Choice {
                key: &entries[0].key,
                node: Some(&entries[0].node),
            }),
            _ => {
                let listed = alternatives(variants.iter().copied());
                let message = format!("expected {listed}, found {}", self.describe());
                Err(Mistake::new(message, None))
            }
        }
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u64 u128 f32 f64 char str bytes byte_buf
        unit unit_struct tuple tuple_struct map identifier
    }
}

struct List<'de> {
    nodes: std::iter::Enumerate<std::slice::Iter<'de, Node>>,
}

impl<'de> SeqAccess<'de> for List<'de> {
    type Error = Mistake;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Mistake> {
        let Some((index, node)) = self.nodes.by_ref().find(|(_, node)| !node.broken.get()) else {
            return Ok(None);
        };
        seed.deserialize(node)
            .map(Some)
            .map_err(|mistake| mistake.in_child(node, node.position, &format!("[{index}]")))
    }
}

struct Map<'de> {
    entries: std::slice::Iter<'de, Entry>,
    current: Option<&'de Entry>,
}

impl<'de> MapAccess<'de> for Map<'de> {
    type Error = Mistake;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Mistake> {
        self.current = self.entries.by_ref().find(|entry| !entry.node.broken.get());
        let Some(entry) = self.current else {
            return Ok(None);
        };
        let key: StrDeserializer<'_, Mistake> = entry.key.as_str().into_deserializer();
        seed.deserialize(key).map(Some).map_err(|mistake| {
            entry.meant.set(mistake.meant);
            mistake.in_child(&entry.node, entry.key_position, &entry.key)
        })
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Mistake> {
        let Some(entry) = self.current else {
            return Err(de::Error::custom("a value was read before its key"));
        };
        seed.deserialize(&entry.node)
            .map_err(|mistake| mistake.in_child(&entry.node, entry.node.position, &entry.key))
    }
}

/// A word that says which variant is meant, or a mapping of one entry whose key does.
struct Choice<'de> {
    key: &'de str,
    node: Option<&'de Node>,
}

impl<'de> Choice<'de> {
    fn value(&self) -> Result<&'de Node, Mistake> {
        self.node.ok_or_else(|| {
            Mistake::new(
                format!("`{}` needs a value", self.key),
                Some(format!("write {{{}: …}}", self.key)),
            )
        })
    }
}

impl<'de> EnumAccess<'de> for Choice<'de> {
    type Error = Mistake;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Mistake> {
        let key: StrDeserializer<'_, Mistake> = self.key.into_deserializer();
        Ok((seed.deserialize(key)?, self))
    }
}

impl<'de> VariantAccess<'de> for Choice<'de> {
    type Error = Mistake;

    fn unit_variant(self) -> Result<(), Mistake> {
        match self.node {
            None => Ok(()),
            Some(_) => Err(Mistake::new(
                format!("`{}` takes no value", self.key),
                Some(format!("write `{}` alone", self.key)),
            )),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Mistake> {
        let node = self.value()?;
        seed.deserialize(node)
            .map_err(|mistake| mistake.in_child(node, node.position, self.key))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Mistake> {
        self.value()?.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        self.value()?.deserialize_struct("", fields, visitor)
    }
}
