//! Schemas of the shapes that may be written in more than one way.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{
    ClaimValues, Endpoint, Prefix,
    service::EndpointFields,
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
one_of!(Endpoint, generator => [
    json_schema!({"type": "string", "pattern": "^https?://[^/?#@]+/?$", "x-type": "URL"}),
    generator.subschema_for::<EndpointFields>(),
]);
one_of!(ClaimValues, _generator => {
    let one = json_schema!({"type": ["string", "number", "boolean"], "x-type": "text, number, `true` or `false`"});
    [one.clone(), json_schema!({"type": "array", "items": one})]
});

/// A prefix that has no levels.
pub(super) fn one_prefix(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = Prefix::json_schema(generator);
    if let Some(properties) = schema
        .get_mut("properties")
        .and_then(serde_json::Value::as_object_mut)
    {
        properties.remove("times");
    }
    schema
}

/// After what requests are sent again: numbers may be written as text.
pub(super) fn retry_on(_: &mut SchemaGenerator) -> Schema {
    let one = json_schema!({
        "enum": ["reset", 502, 503, 504, "502", "503", "504"],
        "x-type": "`reset`, `502`, `503` or `504`",
    });
    json_schema!({"anyOf": [one.clone(), {"type": "array", "items": one}]})
}
