//! Schemas of the shapes that may be written in more than one way.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{
    Prefix,
    shape::{Form, OneOrMany, Prefixes, Quantity, Recent, RecentShare, Text},
};

impl JsonSchema for Quantity {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["integer", "string"], "minimum": 0, "x-type": "amount"})
    }
}

impl<F: Form> JsonSchema for Text<F> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        F::NAME.into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": F::PATTERN, "x-type": F::NAME})
    }
}

/// One way of writing, or another.
macro_rules! one_of {
    ($name:ident $(<$type:ident>)?, $generator:ident => $choices:expr) => {
        impl $(<$type: JsonSchema>)? JsonSchema for $name $(<$type>)? {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema($generator: &mut SchemaGenerator) -> Schema {
                json_schema!({"anyOf": $choices})
            }
        }
    };
}

one_of!(OneOrMany<T>, generator => {
    let one = generator.subschema_for::<T>();
    [one.clone(), json_schema!({"type": "array", "items": one})]
});
one_of!(Prefixes, generator => {
    let one = generator.subschema_for::<Prefix>();
    [one.clone(), json_schema!({"type": "array", "items": one, "minItems": 1})]
});
one_of!(Recent, generator => [json_schema!({"const": "off"}), generator.subschema_for::<RecentShare>()]);
