//! The schema says of every field what it is, and what it says is true.

use std::{fs, path::Path};

use enforcer_policy::schema::{self, Field, fields};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// The fields of a kind.
fn of(kind: &str) -> Vec<Field> {
    fields(&schema::policies()["definitions"][kind])
}

/// All fields of all kinds.
fn all() -> Vec<(String, Vec<Field>)> {
    schema::kinds()
        .into_iter()
        .map(|kind| (kind.clone(), of(&kind)))
        .collect()
}

/// What must stand beside a field, by the mapping that holds it and its name, for the mapping to load.
fn beside(kind: &str, holder: &str, name: &str) -> Value {
    match (kind, holder, name) {
        ("PacketPolicy", "verified", "burst" | "recent") => json!({"rate": "50000/s"}),
        ("PacketPolicy", "syn", "above") => json!({"cookies": "auto"}),
        ("Route", "", "passthrough") => {
            json!({"rules": [{"require": {"anonymous": true}, "service": "orders"}]})
        }
        ("Route", "rules[]", "service" | "services" | "redirect") => json!({}),
        ("Route", "rules[]", "forward") => {
            json!({"service": "orders", "require": {"token": {"issuer": "corp"}}})
        }
        ("Route", "rules[]", "rewrite") => {
            json!({"service": "orders", "match": {"path": {"prefix": "/v1"}}})
        }
        ("Route", "rules[]", _) => json!({"service": "orders"}),
        ("Route", "rules[].require", "from" | "when") => json!({"anonymous": true}),
        ("Route", "rules[].match.headers[]" | "rules[].match.query[]", "name") => json!({"present": true}),
        // A client would be led to where it has come from.
        ("Route", "rules[].redirect", "status") => json!({"scheme": "https"}),
        ("Route", "rules[].redirect.path" | "rules[].rewrite.path", "with") => {
            json!({"regex": "/users/([0-9]+)"})
        }
        ("Route", "rules[].redirect.path" | "rules[].rewrite.path", "regex") => json!({"with": "/users"}),
        ("Service", "", "tls") => json!({"endpoints": ["https://10.0.0.7:8443"]}),
        ("Service", "tls", "certificate") => json!({"key": "own.key"}),
        ("Service", "tls", "key") => json!({"certificate": "own.pem"}),
        ("Issuer", "", "introspection") => json!({}),
        ("Issuer", "", _) => {
            json!({"jwks": {"url": "https://idp.example.com/jwks"}, "algorithms": "ES256"})
        }
        ("Issuer", "jwks", "refresh" | "ca") => json!({"url": "https://idp.example.com/jwks"}),
        ("Revocations", "entries[]", "reason" | "until") => json!({"key": "partner-a-2026"}),
        ("Revocations", "entries[].certificate", "serial") => json!({"issuer": "CN=authority"}),
        ("Revocations", "entries[].certificate", "issuer") => json!({"serial": "4F"}),
        _ => json!({}),
    }
}

/// What a default cannot be written beside, where leaving the field out means the same.
fn cannot_be_written(kind: &str, path: &str) -> bool {
    // Nothing to lead to, and nothing to ask, is as good as a mistake.
    kind == "Service" && path == "tls"
}

fn holder(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(holder, _)| holder)
}

fn last(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, last)| last)
}

/// The smallest mapping that may hold `path`, without it.
fn smallest(kind: &str, all: &[Field], path: &str) -> Map<String, Value> {
    let inside = |field: &&Field| field.required && holder(&field.path) == holder(path) && field.path != path;
    let required = all.iter().filter(inside);
    let mut mapping: Map<String, Value> = required
        .map(|field| (last(&field.path).to_owned(), field.schema["examples"][0].clone()))
        .collect();
    if let Value::Object(beside) = beside(kind, holder(path), last(path)) {
        mapping.extend(beside);
    }
    mapping
}

/// The spec that has `mapping` where `place` is.
fn around(kind: &str, all: &[Field], place: &str, mapping: Value) -> Value {
    if place.is_empty() {
        return mapping;
    }
    if let Some(list) = place.strip_suffix("[]") {
        return around(kind, all, list, json!([mapping]));
    }
    if let Some(keyed) = place.strip_suffix(".*") {
        return around(kind, all, keyed, json!({"gold": mapping}));
    }
    let mut outer = smallest(kind, all, place);
    outer.insert(last(place).to_owned(), mapping);
    around(kind, all, holder(place), Value::Object(outer))
}

/// The smallest spec that has `value` at `path`, or else nothing there.
fn spec_with(kind: &str, all: &[Field], path: &str, value: Option<Value>) -> Value {
    let mut mapping = smallest(kind, all, path);
    mapping.extend(value.map(|value| (last(path).to_owned(), value)));
    around(kind, all, holder(path), Value::Object(mapping))
}

fn example(field: &Field) -> Value {
    field.schema["examples"][0].clone()
}

fn document(kind: &str, spec: &Value) -> Value {
    named(kind, "example", spec)
}

fn named(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "enforcer.dev/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// What examples mention.
fn neighbours() -> Vec<Value> {
    vec![
        named(
            "Service",
            "orders",
            &json!({"endpoints": ["http://10.0.0.7:8080"]}),
        ),
        named(
            "Service",
            "orders-next",
            &json!({"endpoints": ["http://10.0.0.8:8080"]}),
        ),
        named(
            "Issuer",
            "corp",
            &json!({"issuer": "https://corp.example.com", "audiences": "orders", "algorithms": "ES256", "jwks": {"file": "jwks.json"}}),
        ),
        named("ApiKeys", "partners", &json!({"keys": []})),
    ]
}

/// A folder with the files that examples name.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let pair = rcgen::generate_simple_self_signed(vec!["orders.internal".to_owned()]).unwrap();
        let (certificate, key) = (pair.cert.pem(), pair.signing_key.serialize_pem());
        for (name, content) in [
            ("ca.pem", certificate.as_str()),
            ("own.pem", &certificate),
            ("own.key", &key),
            ("idp-ca.pem", &certificate),
            ("idp-secret", "secret"),
            ("jwks.json", r#"{"keys": []}"#),
        ] {
            fs::write(folder.path().join(name), content).unwrap();
        }
        Self(folder)
    }

    /// Loads a document of that kind; the answer is what was built.
    fn built(&self, kind: &str, spec: &Value) -> Result<String, String> {
        let file = self.0.path().join("policy.yaml");
        // JSON is YAML.
        let mut text = document(kind, spec).to_string();
        for neighbour in neighbours() {
            text += &format!("\n---\n{neighbour}");
        }
        fs::write(&file, text).unwrap();
        let loaded = enforcer_policy::load(&[file]).map_err(|problems| format!("{problems}\n{spec}"))?;
        let set = &loaded.set;
        Ok(format!("{set:?}"))
    }
}

#[test]
fn every_field_says_what_it_is() {
    let mut mistakes = Vec::new();
    for (kind, fields) in all() {
        assert!(
            fields.len() > 5,
            "only {} fields of {kind} were found",
            fields.len()
        );
        for Field {
            path,
            schema,
            required,
            alternative,
        } in fields
        {
            let mut check = |holds: bool, lacks: &str| {
                if !holds {
                    mistakes.push(format!("{kind} `{path}` {lacks}"));
                }
            };
            let described = schema["description"]
                .as_str()
                .is_some_and(|text| !text.is_empty());
            check(described, "has no description");
            let default = schema.get("default").or(schema.get("x-default")).is_some();
            let says = u8::from(default) + u8::from(required) + u8::from(alternative);
            check(
                says == 1,
                "has to be required, or to have a default, or to be one of several",
            );
            check(schema["examples"][0] != Value::Null, "has no example");
            let measured = [&schema["x-type"], &schema["type"]].iter().any(|one| {
                ["rate", "amount", "duration", "integer"]
                    .iter()
                    .any(|name| *one == name)
            });
            check(
                !measured || schema["x-range"].is_string(),
                "has no range and unit",
            );
        }
    }
    assert!(mistakes.is_empty(), "{mistakes:#?}");
}

/// Every name of a property, wherever it is.
fn names(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            for (key, value) in map {
                if key == "properties" {
                    found.extend(value.as_object().unwrap().keys().cloned());
                    value
                        .as_object()
                        .unwrap()
                        .values()
                        .for_each(|value| names(value, found));
                } else if key != "examples" && key != "default" {
                    names(value, found);
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| names(value, found)),
        _ => {}
    }
}

#[test]
fn no_field_is_left_out() {
    for (kind, fields) in all() {
        let mut expected = Vec::new();
        names(&schema::policies()["definitions"][&kind], &mut expected);
        expected.sort();
        expected.dedup();
        let mut found: Vec<String> = fields.iter().map(|field| last(&field.path).to_owned()).collect();
        found.sort();
        found.dedup();
        assert_eq!(found, expected, "{kind}");
    }
}

#[test]
fn every_example_loads_and_fits_the_schema() {
    let (folder, validator) = (
        Folder::new(),
        jsonschema::validator_for(&schema::policies()).unwrap(),
    );
    let mut mistakes = Vec::new();
    for (kind, fields) in all() {
        for field in &fields {
            let spec = spec_with(&kind, &fields, &field.path, Some(example(field)));
            if let Err(problems) = folder.built(&kind, &spec) {
                mistakes.push(format!("{kind} `{}`: {problems}", field.path));
            }
            let document = document(&kind, &spec);
            let refused = validator.iter_errors(&document).map(|error| error.to_string());
            mistakes.extend(refused.map(|error| format!("{kind} `{}`: {error}", field.path)));
        }
    }
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n\n"));
}

#[test]
fn a_required_field_is_missed() {
    let folder = Folder::new();
    for (kind, fields) in all() {
        for field in fields.iter().filter(|field| field.required) {
            let spec = spec_with(&kind, &fields, &field.path, None);
            let path = &field.path;
            assert!(
                folder.built(&kind, &spec).is_err(),
                "{kind} `{path}` is not required: {spec}"
            );
        }
    }
}

#[test]
fn every_default_is_what_a_field_left_out_means() {
    let folder = Folder::new();
    let (mut compared, mut mistakes) = (0, Vec::new());
    for (kind, fields) in all() {
        for field in &fields {
            let (path, Some(default)) = (&field.path, field.schema.get("default")) else {
                continue;
            };
            if cannot_be_written(&kind, path) {
                continue;
            }
            let written = folder.built(&kind, &spec_with(&kind, &fields, path, Some(default.clone())));
            let left_out = folder.built(&kind, &spec_with(&kind, &fields, path, None));
            if written.is_err() || written != left_out {
                mistakes.push(format!(
                    "{kind} `{path}`: {default} is {written:?}\nleft out: {left_out:?}"
                ));
            }
            compared += 1;
        }
    }
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n\n"));
    assert!(compared > 50, "only {compared} defaults were compared");
}

#[test]
fn a_misspelt_field_is_refused() {
    let (folder, validator) = (
        Folder::new(),
        jsonschema::validator_for(&schema::policies()).unwrap(),
    );
    let mut mistakes = Vec::new();
    for (kind, fields) in all() {
        for field in &fields {
            let mut mapping = smallest(&kind, &fields, &field.path);
            mapping.insert(last(&field.path).to_owned(), example(field));
            // The mapping is right but for this.
            mapping.insert(format!("{}x", last(&field.path)), example(field));
            let spec = around(&kind, &fields, holder(&field.path), Value::Object(mapping));
            if validator.is_valid(&document(&kind, &spec)) {
                mistakes.push(format!("the schema takes {kind} {spec}"));
            }
            if folder.built(&kind, &spec).is_ok() {
                mistakes.push(format!("{kind} {spec} loads"));
            }
        }
    }
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n\n"));
}

#[test]
fn the_schema_in_the_documentation_is_this_one() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/policy.schema.json");
    let text = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        text == format!("{:#}\n", schema::policies()),
        "docs/policy.schema.json is out of date: `cargo run --package enforcer -- schema > docs/policy.schema.json`"
    );
}

#[test]
fn the_reference_in_the_documentation_is_this_one() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference.md");
    let text = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        text == schema::reference(),
        "docs/reference.md is out of date: `cargo run --package enforcer -- schema --markdown > docs/reference.md`"
    );
}

#[test]
fn the_schema_refuses_mistakes() {
    let validator = jsonschema::validator_for(&schema::policies()).unwrap();
    let limits = |limit: Value| json!({"interfaces": "eth0", "limits": [limit]});
    for (kind, spec) in [
        ("PacketPolicy", json!({})),
        ("PacketPolicy", json!({"interfaces": "eth0", "mode": "off"})),
        ("PacketPolicy", json!({"interfaces": "eth0", "mode": null})),
        ("PacketPolicy", limits(json!({"name": "no-rate"}))),
        ("PacketPolicy", limits(json!({"rate": "100"}))),
        ("PacketPolicy", limits(json!({"rate": "100/s", "per": "nobody"}))),
        ("PacketPolicies", json!({"interfaces": "eth0"})),
        ("Service", json!({"endpoints": ["10.0.0.7:8080"]})),
        (
            "Service",
            json!({"endpoints": ["http://10.0.0.7:8080"], "retries": {"on": [500]}}),
        ),
        ("Route", json!({"hosts": "*"})),
        (
            "Route",
            json!({"hosts": "*", "rules": [{"match": {"path": "/a"}}]}),
        ),
        ("Issuer", json!({"issuer": "https://idp.example.com"})),
        ("ApiKeys", json!({"keys": [{"id": "a", "owner": "a"}]})),
        ("Revocations", json!({"entries": [{"token": {"jti": "a"}}]})),
    ] {
        let document = document(kind, &spec);
        assert!(!validator.is_valid(&document), "{kind} {spec} was taken");
    }
}

/// The documents of all policies that are ready made: of `policies/`, and what `deploy/` installs.
fn ready_made() -> Vec<(String, Value)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut texts = Vec::new();
    for entry in fs::read_dir(root.join("policies")).unwrap() {
        let file = entry.unwrap().path();
        texts.push((file.display().to_string(), fs::read_to_string(&file).unwrap()));
    }
    let maps = fs::read_to_string(root.join("deploy/kubernetes/configmap.yaml")).unwrap();
    for map in serde_saphyr::from_multiple::<Value>(&maps).unwrap() {
        for (name, text) in map["data"].as_object().unwrap() {
            if name != "enforcer.yaml" {
                texts.push((name.clone(), text.as_str().unwrap().to_owned()));
            }
        }
    }
    let documents = |(name, text): (String, String)| {
        let documents = serde_saphyr::from_multiple::<Value>(&text).unwrap();
        documents
            .into_iter()
            .map(move |document| (name.clone(), document))
    };
    texts.into_iter().flat_map(documents).collect()
}

#[test]
fn the_schema_takes_the_policies_that_are_ready_made() {
    let validator = jsonschema::validator_for(&schema::policies()).unwrap();
    let documents = ready_made();
    for (name, document) in &documents {
        let mistakes: Vec<String> = validator
            .iter_errors(document)
            .map(|error| error.to_string())
            .collect();
        assert!(mistakes.is_empty(), "{name}: {mistakes:?}");
    }
    assert!(
        documents.len() > 5,
        "only {} documents were found",
        documents.len()
    );
}
