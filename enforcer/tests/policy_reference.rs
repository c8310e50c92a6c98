//! The schema says of every field what it is, and what it says is true.
#![expect(clippy::unwrap_used, reason = "what fails in a test fails the test")]

use std::{fs, path::Path};

use enforcer::{policy, schema};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// A field of the schema, and where it is.
struct Field {
    /// `limits[].rate`.
    path: String,
    schema: Value,
    required: bool,
}

/// All fields below an object or a list of objects, those of its parts included.
fn fields(schema: &Value, path: &str, found: &mut Vec<Field>) {
    let choices = ["anyOf", "oneOf"]
        .iter()
        .filter_map(|key| schema[*key].as_array())
        .flatten();
    for choice in choices {
        fields(choice, path, found);
    }
    if schema["items"].is_object() && !path.ends_with(']') {
        fields(&schema["items"], &format!("{path}[]"), found);
    }
    let Some(properties) = schema["properties"].as_object() else {
        return;
    };
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    for (name, property) in properties {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        found.push(Field {
            required: required.iter().any(|one| one == name),
            schema: property.clone(),
            path: path.clone(),
        });
        fields(property, &path, found);
    }
}

/// The fields of a packet policy.
fn packet_policy() -> Vec<Field> {
    let mut found = Vec::new();
    fields(&schema::policies()["definitions"]["PacketPolicy"], "", &mut found);
    // A list whose element may be written alone has its fields twice.
    found.retain(|field| !field.path.starts_with("limits[].prefix[]"));
    // The prefix of an egress limit is of the same type, and has no levels.
    found.retain(|field| field.path != "egress.limits[].prefix.times");
    assert!(found.len() > 40, "only {} fields were found", found.len());
    found
}

/// What a field needs beside it, by the path of the mapping that holds it.
fn context(path: &str) -> Value {
    match path {
        "verified.burst" | "verified.recent" => json!({"rate": "50000/s"}),
        "syn.above" => json!({"cookies": "auto"}),
        _ => json!({}),
    }
}

/// The smallest mapping at `holder` that loads, without `left_out`.
fn smallest(all: &[Field], holder: &str, left_out: &str) -> Map<String, Value> {
    let inside = |field: &&Field| field.required && parent(&field.path) == holder && field.path != left_out;
    all.iter()
        .filter(inside)
        .map(|field| (last(&field.path).to_owned(), field.schema["examples"][0].clone()))
        .collect()
}

fn parent(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(parent, _)| parent)
}

fn last(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, last)| last)
}

/// The smallest spec that has `value` at `path`, or else nothing there.
fn spec_with(all: &[Field], path: &str, value: Option<Value>) -> Value {
    let holder = parent(path);
    let mut mapping = smallest(all, holder, path);
    if let Value::Object(beside) = context(path) {
        mapping.extend(beside);
    }
    mapping.extend(value.map(|value| (last(path).to_owned(), value)));
    let mapping = Value::Object(mapping);
    match holder.strip_suffix("[]") {
        _ if holder.is_empty() => mapping,
        Some(list) => spec_with(all, list, Some(json!([mapping]))),
        None => spec_with(all, holder, Some(mapping)),
    }
}

/// Loads a packet policy; the answer is what was built.
fn built(spec: &Value) -> Result<String, String> {
    let document = document("PacketPolicy", spec);
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("policy.yaml");
    // JSON is YAML.
    fs::write(&file, document.to_string()).unwrap();
    let loaded = policy::load(&[file]).map_err(|problems| format!("{problems}\n{document}"))?;
    let policy = &loaded.set.packet_policies[0];
    let text = format!("{policy:?}");
    // Each set is read from a folder of its own.
    Ok(text.replace(&format!("{:?}", policy.origin), ""))
}

fn document(kind: &str, spec: &Value) -> Value {
    json!({"apiVersion": "enforcer.dev/v1", "kind": kind, "metadata": {"name": "example"}, "spec": spec})
}

#[test]
fn every_field_says_what_it_is() {
    for Field {
        path,
        schema,
        required,
    } in packet_policy()
    {
        let described = schema["description"]
            .as_str()
            .is_some_and(|text| !text.is_empty());
        assert!(described, "`{path}` has no description");
        let default = schema.get("default").or(schema.get("x-default")).is_some();
        assert!(
            default != required,
            "`{path}` has to be required or to have a default, and not both"
        );
        assert!(schema["examples"][0] != Value::Null, "`{path}` has no example");
    }
}

#[test]
fn every_example_loads() {
    let all = packet_policy();
    for field in &all {
        let spec = spec_with(&all, &field.path, Some(field.schema["examples"][0].clone()));
        if let Err(problems) = built(&spec) {
            panic!("`{}`: {problems}", field.path);
        }
    }
}

#[test]
fn a_required_field_is_missed() {
    let all = packet_policy();
    for field in all.iter().filter(|field| field.required) {
        let spec = spec_with(&all, &field.path, None);
        assert!(built(&spec).is_err(), "`{}` is not required: {spec}", field.path);
    }
}

#[test]
fn every_default_is_what_a_field_left_out_means() {
    let all = packet_policy();
    let mut compared = 0;
    for field in &all {
        let Some(default) = field.schema.get("default") else {
            continue;
        };
        let written = built(&spec_with(&all, &field.path, Some(default.clone()))).unwrap();
        let left_out = built(&spec_with(&all, &field.path, None)).unwrap();
        assert_eq!(
            written, left_out,
            "the default of `{}` is another one",
            field.path
        );
        compared += 1;
    }
    assert!(compared > 10, "only {compared} defaults were compared");
}

#[test]
fn the_schema_in_the_documentation_is_this_one() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/policy.schema.json");
    let text = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        text == format!("{:#}\n", schema::policies()),
        "docs/policy.schema.json is out of date: `cargo run --package enforcer -- schema > docs/policy.schema.json`"
    );
}

#[test]
fn the_reference_in_the_documentation_is_this_one() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference.md");
    let text = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        text == schema::reference(),
        "docs/reference.md is out of date: `cargo run --package enforcer -- schema --markdown > docs/reference.md`"
    );
}

#[test]
fn the_schema_takes_examples_and_refuses_mistakes() {
    let validator = jsonschema::validator_for(&schema::policies()).unwrap();
    let all = packet_policy();
    for field in &all {
        let spec = spec_with(&all, &field.path, Some(field.schema["examples"][0].clone()));
        let document = document("PacketPolicy", &spec);
        let mistakes: Vec<String> = validator
            .iter_errors(&document)
            .map(|error| error.to_string())
            .collect();
        assert!(mistakes.is_empty(), "`{}`: {mistakes:?}\n{document}", field.path);
    }
    let limits = |limit: Value| json!({"interfaces": "eth0", "limits": [limit]});
    for (kind, spec) in [
        ("PacketPolicy", json!({})),
        ("PacketPolicy", json!({"interfaces": "eth0", "mode": "off"})),
        ("PacketPolicy", json!({"interfaces": "eth0", "limit": []})),
        ("PacketPolicy", json!({"interfaces": "eth0", "mode": null})),
        ("PacketPolicy", limits(json!({"name": "no-rate"}))),
        ("PacketPolicy", limits(json!({"rate": "100"}))),
        ("PacketPolicy", limits(json!({"rate": "100/s", "per": "nobody"}))),
        ("PacketPolicies", json!({"interfaces": "eth0"})),
    ] {
        assert!(
            !validator.is_valid(&document(kind, &spec)),
            "{kind} {spec} was taken"
        );
    }
}

#[test]
fn the_schema_takes_the_policies_that_are_ready_made() {
    let validator = jsonschema::validator_for(&schema::policies()).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().path();
        let text = fs::read_to_string(&file).unwrap();
        for document in serde_saphyr::from_multiple::<Value>(&text).unwrap() {
            let mistakes: Vec<String> = validator
                .iter_errors(&document)
                .map(|error| error.to_string())
                .collect();
            assert!(mistakes.is_empty(), "{}: {mistakes:?}", file.display());
            count += 1;
        }
    }
    assert!(count >= 5, "only {count} documents were found");
}
