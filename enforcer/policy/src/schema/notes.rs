//! What doc comments of fields say beside their description.
//!
//! ```text
//! /// How many may come at once.
//! ///
//! /// - required
//! /// - default: `40k`, or in words where it depends on other fields
//! /// - range: 1 to 1000
//! /// - example: `40k`
//! ```
//!
//! What stands in backquotes after `default` and `example` is YAML.

use serde_json::{Map, Value};

/// Makes keywords of the notes in a schema and in all that it holds: `default`, or `x-default` in words,
/// `x-range`, `examples`, and the parent's `required`. Takes out that any field may be null.
///
/// Only what is a schema is looked into: what examples and defaults have is theirs.
pub(super) fn read(schema: &mut Value) {
    let Value::Object(map) = schema else {
        return;
    };
    drop_null(map);
    map.remove("format");
    for variant in map
        .get_mut("oneOf")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        describe_alternative(variant);
    }
    let required = read_properties(map);
    if !is_alternative(map) {
        map.remove("required");
    }
    if !required.is_empty() {
        map.insert("required".to_owned(), required.into());
    }
    for key in ["items", "additionalProperties"] {
        map.get_mut(key).into_iter().for_each(read);
    }
    for key in ["anyOf", "oneOf"] {
        let choices = map.get_mut(key).and_then(Value::as_array_mut);
        choices.into_iter().flatten().for_each(read);
    }
    let properties = map.get_mut("properties").and_then(Value::as_object_mut);
    properties
        .into_iter()
        .for_each(|properties| properties.values_mut().for_each(read));
}

/// A mapping of one field, which must be there: a variant with a value. No field of ours is required otherwise, for all
/// are options, whatever schemars makes of those whose schema is written by hand.
fn is_alternative(map: &Map<String, Value>) -> bool {
    let names = map.get("properties").and_then(Value::as_object).map(Map::len);
    let required = map.get("required").and_then(Value::as_array).map(Vec::len);
    names == Some(1) && required == Some(1)
}

/// A variant with a value is a mapping of one field, and its doc comment is about that.
fn describe_alternative(variant: &mut Value) {
    let Some(text) = variant.get("description").cloned() else {
        return;
    };
    let properties = variant.get_mut("properties").and_then(Value::as_object_mut);
    for property in properties
        .into_iter()
        .flat_map(|properties| properties.values_mut())
    {
        property["description"] = text.clone();
    }
    if let Some(map) = variant.as_object_mut() {
        map.remove("description");
    }
}

/// Reads the notes of an object's fields; the answer is the names of those that are required.
fn read_properties(map: &mut Map<String, Value>) -> Vec<String> {
    let Some(Value::Object(properties)) = map.get_mut("properties") else {
        return Vec::new();
    };
    let mut required = Vec::new();
    for (name, property) in properties {
        let Value::Object(property) = property else {
            continue;
        };
        drop_null(property);
        if read_field(property) {
            required.push(name.clone());
        }
    }
    required
}

/// Reads the notes of one field; the answer is whether it is required.
fn read_field(property: &mut Map<String, Value>) -> bool {
    let Some(Value::String(text)) = property.remove("description") else {
        return false;
    };
    let mut required = false;
    let mut words: Vec<&str> = Vec::new();
    for line in text.lines().map(str::trim) {
        let Some(note) = line.strip_prefix("- ") else {
            words.extend((!line.is_empty()).then_some(line));
            continue;
        };
        match note.split_once(": ") {
            None if note == "required" => required = true,
            Some(("default", text)) => match yaml(text) {
                Some(value) => drop(property.insert("default".to_owned(), value)),
                None => drop(property.insert("x-default".to_owned(), text.into())),
            },
            Some(("range", text)) => drop(property.insert("x-range".to_owned(), text.into())),
            Some(("example", text)) => {
                let examples = yaml(text).into_iter().collect();
                property.insert("examples".to_owned(), Value::Array(examples));
            }
            _ => words.push(line),
        }
    }
    property.insert("description".to_owned(), words.join(" ").into());
    required
}

/// YAML in backquotes.
fn yaml(text: &str) -> Option<Value> {
    let inner = text.strip_prefix('`')?.strip_suffix('`')?;
    serde_saphyr::from_str(inner).ok()
}

/// A field may be left out, but not be null.
fn drop_null(map: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = map.get_mut("type") {
        types.retain(|one| one != "null");
        if let [one] = types.as_slice() {
            let one = one.clone();
            map.insert("type".to_owned(), one);
        }
    }
    if let Some(Value::Array(values)) = map.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    let Some(Value::Array(choices)) = map.get_mut("anyOf") else {
        return;
    };
    choices.retain(|choice| choice.get("type").is_none_or(|one| one != "null"));
    if choices.len() == 1
        && let Some(Value::Object(only)) = choices.pop()
    {
        map.remove("anyOf");
        for (key, value) in only {
            map.entry(key).or_insert(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn notes_become_keywords() {
        let text =
            "How many.\nAt once.\n\n- required\n- default: `40k`\n- range: 1 to 5\n- example: `[1, a]`";
        let mut schema = json!({"properties": {"burst": {"type": ["string", "null"], "description": text}}});
        read(&mut schema);
        assert_eq!(
            schema,
            json!({
                "required": ["burst"],
                "properties": {"burst": {
                    "type": "string",
                    "description": "How many. At once.",
                    "default": "40k",
                    "x-range": "1 to 5",
                    "examples": [[1, "a"]],
                }},
            })
        );
    }

    #[test]
    fn what_examples_and_variants_have_is_theirs() {
        let mut schema = json!({"oneOf": [
            {"enum": ["off"]},
            {
                "description": "A.\n\n- example: `{format: x}`",
                "properties": {"format": {"type": "object"}},
                "required": ["format"],
            },
        ]});
        read(&mut schema);
        assert_eq!(
            schema,
            json!({"oneOf": [
                {"enum": ["off"]},
                {
                    "properties": {"format": {
                        "type": "object",
                        "description": "A.",
                        "examples": [{"format": "x"}],
                    }},
                    "required": ["format"],
                },
            ]})
        );
    }

    #[test]
    fn a_default_in_words_is_no_value() {
        let mut schema = json!({"properties": {"a": {"description": "A.\n\n- default: the policy's"}}});
        read(&mut schema);
        let expected = json!({"properties": {"a": {"description": "A.", "x-default": "the policy's"}}});
        assert_eq!(schema, expected);
    }
}
