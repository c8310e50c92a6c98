//! The JSON Schema of policy documents, made from the types that read them.
//!
//! What a field is for stands in its doc comment, in a form that `notes` reads.

mod fields;
mod markdown;
mod notes;

pub use fields::{Field, fields};
pub use markdown::reference;

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::raw::{ApiKeys, Issuer, Kind, PacketPolicy, Revocations, Route, Service};

/// The version of JSON Schema that editors know best.
const DIALECT: &str = "http://json-schema.org/draft-07/schema#";

/// The kinds, in the order of the guide.
const KINDS: [Kind; 6] = [
    Kind::PacketPolicy,
    Kind::Issuer,
    Kind::ApiKeys,
    Kind::Revocations,
    Kind::Service,
    Kind::Route,
];

/// What the `spec` of a kind is.
fn spec(kind: Kind) -> Value {
    match kind {
        Kind::PacketPolicy => of::<PacketPolicy>(),
        Kind::Issuer => of::<Issuer>(),
        Kind::ApiKeys => of::<ApiKeys>(),
        Kind::Revocations => of::<Revocations>(),
        Kind::Service => of::<Service>(),
        Kind::Route => of::<Route>(),
    }
}

/// The names of the kinds, in the order of the guide.
#[must_use]
pub fn kinds() -> Vec<String> {
    KINDS.iter().map(Kind::to_string).collect()
}

/// The schema of one policy document. What the `spec` of each kind is stands in `definitions`.
#[must_use]
pub fn policies() -> Value {
    let names = kinds();
    let definitions: Map<String, Value> = KINDS.iter().map(|kind| (kind.to_string(), spec(*kind))).collect();
    let by_kind = names.iter().map(|name| {
        json!({
            "if": {"properties": {"kind": {"const": name}}, "required": ["kind"]},
            "then": {"properties": {"spec": {"$ref": format!("#/definitions/{name}")}}},
        })
    });
    let by_kind: Vec<Value> = by_kind.collect();
    json!({
        "$schema": DIALECT,
        "title": "Policy of Enforcer",
        "type": "object",
        "additionalProperties": false,
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {"description": "The version of the document.", "const": "enforcer.dev/v1"},
            "kind": {"description": "What the document is about.", "enum": names},
            "metadata": {
                "description": "Names the document; what else Kubernetes keeps here is ignored.",
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {
                        "description": "The document's name, unique in its kind.",
                        "type": "string",
                        "pattern": "^[a-z0-9-]{1,63}$",
                    },
                },
            },
            "spec": {"description": "What the document says, by its kind.", "type": "object"},
            "status": {"description": "What Kubernetes writes back: ignored."},
        },
        "allOf": by_kind,
        "definitions": definitions,
    })
}

/// The schema of a type, each part of it written where it is used.
fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    notes::read(&mut schema);
    schema
}
