//! The reference, as a page: a table of fields by their paths.

use std::fmt::Write as _;

use serde_json::Value;

use super::{fields, kinds, policies};

/// What stands above the tables.
const HEAD: &str = "# Reference

Every field of every kind of document, written from the types that read them; what they do together, and how values are
written, is in the [guide](policies.md). A rate is written like `100/s` or `10Mbit/s`, a duration like `1m30s`, an amount
like `40k` or, of bytes, `64KiB`. `[]` is each element of a list, `*` each key of a mapping. Where one of several fields is
to be written, the default says so.
";

/// What stands above each table.
const COLUMNS: &str = "
| field | type | default | range and unit | example | |
| --- | --- | --- | --- | --- | --- |
";

/// The page `docs/reference.md`.
#[must_use]
pub fn reference() -> String {
    let mut page = HEAD.to_owned();
    let schema = policies();
    page.push('\n');
    for kind in kinds() {
        let _infallible = writeln!(page, "- [{kind}](#{})", kind.to_lowercase());
    }
    for kind in kinds() {
        let _infallible = write!(page, "\n## {kind}\n{COLUMNS}");
        rows(&schema["definitions"][&kind], "spec.", &mut page);
    }
    page
}

/// A row for each field.
fn rows(schema: &Value, prefix: &str, page: &mut String) {
    for field in fields(schema) {
        let schema = &field.schema;
        let default = match (schema.get("default"), schema["x-default"].as_str()) {
            (Some(value), _) => code(value),
            (None, Some(words)) => words.to_owned(),
            (None, None) if field.alternative => "one of these".to_owned(),
            (None, None) => "required".to_owned(),
        };
        let cells = [
            format!("`{prefix}{}`", field.path),
            type_of(schema),
            default,
            schema["x-range"].as_str().unwrap_or_default().to_owned(),
            code(&schema["examples"][0]),
            schema["description"].as_str().unwrap_or_default().to_owned(),
        ];
        let _infallible = writeln!(
            page,
            "| {} |",
            cells.map(|cell| cell.replace('|', "\\|")).join(" | ")
        );
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
    if let Some(choices) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
        let mut types: Vec<String> = choices.iter().map(type_of).collect();
        types.dedup();
        return types.join(", or ");
    }
    match schema["type"].as_str() {
        Some("array") => format!("list of {}", type_of(&schema["items"])),
        Some("object") => "mapping".to_owned(),
        Some("string") => "text".to_owned(),
        Some("boolean") => "`true`, `false`".to_owned(),
        other => other.unwrap_or_default().to_owned(),
    }
}
