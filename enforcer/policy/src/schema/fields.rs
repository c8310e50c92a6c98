//! All fields that a schema describes, by their paths.

use serde_json::Value;

/// A field, and where it is.
#[derive(Clone, Debug)]
pub struct Field {
    /// `limits[].rate`; `[]` is an element of a list, and `*` any key of a mapping.
    pub path: String,
    /// What it may be.
    pub schema: Value,
    /// Whether the mapping that holds it must have it.
    pub required: bool,
    /// Whether it is one of several, of which the mapping that holds them has exactly one.
    pub alternative: bool,
}

/// The fields below what `schema` describes, each before those that it holds.
#[must_use]
pub fn fields(schema: &Value) -> Vec<Field> {
    let mut found = Vec::new();
    below(schema, "", false, &mut found);
    found
}

fn below(schema: &Value, path: &str, alternative: bool, found: &mut Vec<Field>) {
    let choices = |key: &str| schema[key].as_array().map_or(&[][..], Vec::as_slice);
    // What may be written alone or as a list is described as a list.
    match choices("anyOf").iter().find(|choice| choice["items"].is_object()) {
        Some(list) => below(list, path, false, found),
        None => choices("anyOf")
            .iter()
            .for_each(|choice| below(choice, path, false, found)),
    }
    for choice in choices("oneOf") {
        below(choice, path, true, found);
    }
    if schema["items"].is_object() {
        below(&schema["items"], &format!("{path}[]"), false, found);
    }
    let join = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    if schema["additionalProperties"].is_object() {
        below(&schema["additionalProperties"], &join("*"), false, found);
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = join(name);
        let required = schema["required"].as_array();
        found.push(Field {
            path: path.clone(),
            schema: property.clone(),
            required: !alternative && required.is_some_and(|names| names.iter().any(|one| one == name)),
            alternative,
        });
        below(property, &path, false, found);
    }
}
