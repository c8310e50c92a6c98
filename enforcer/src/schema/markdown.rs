//! The reference, as a page: a table of fields by their paths.

use std::fmt::Write as _;

use serde_json::Value;

use super::policies;

/// What stands above the tables.
const HEAD: &str = "# Reference

Written from the types that read the documents; the guide, with all units, is [policies.md](policies.md). Other kinds than
`PacketPolicy` are described there alone. A rate is written like `100/s` or `10Mbit/s`, a duration like `1m30s`, an amount
like `40k` or, of bytes, `64KiB`.

## PacketPolicy

| field | type | default | range | example | |
| --- | --- | --- | --- | --- | --- |
";

/// The page `docs/reference.md`.
#[must_use]
pub fn reference() -> String {
    let mut page = HEAD.to_owned();
    rows(&policies()["definitions"]["PacketPolicy"], "spec", &mut page);
    page
}

/// A row for each field below an object or a list of objects.
fn rows(schema: &Value, path: &str, page: &mut String) {
    // What may be written alone or as a list is described as a list.
    let choices = schema["anyOf"].as_array().map_or(&[][..], Vec::as_slice);
    let list = choices.iter().find(|choice| choice["items"].is_object());
    if let Some(choice) = list.or(choices.iter().find(|choice| choice["properties"].is_object())) {
        rows(choice, path, page);
    }
    if schema["items"].is_object() {
        rows(&schema["items"], &format!("{path}[]"), page);
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let default = match (field.get("default"), field["x-default"].as_str()) {
            (Some(value), _) => code(value),
            (None, Some(words)) => words.to_owned(),
            (None, None) => "required".to_owned(),
        };
        let cells = [
            format!("`{path}`"),
            type_of(field),
            default,
            field["x-range"].as_str().unwrap_or_default().to_owned(),
            code(&field["examples"][0]),
            field["description"].as_str().unwrap_or_default().to_owned(),
        ];
        let _infallible = writeln!(
            page,
            "| {} |",
            cells.map(|cell| cell.replace('|', "\\|")).join(" | ")
        );
        rows(field, &path, page);
    }
}

fn code(value: &Value) -> String {
    match value {
        Value::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    }
}

/// What a value looks like.
fn type_of(schema: &Value) -> String {
    if let Some(name) = schema["x-type"].as_str() {
        return name.to_owned();
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().map(code).collect::<Vec<_>>().join(", ");
    }
    if let Some(value) = schema.get("const") {
        return code(value);
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        return choices.iter().map(type_of).collect::<Vec<_>>().join(", or ");
    }
    match schema["type"].as_str() {
        Some("array") => format!("list of {}", type_of(&schema["items"])),
        Some("object") => "mapping".to_owned(),
        Some("string") => "text".to_owned(),
        other => other.unwrap_or_default().to_owned(),
    }
}
