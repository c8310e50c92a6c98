//! Every example of a policy or a configuration in the documentation loads.
//!
//! A block of YAML that begins with `apiVersion:` is a set of policies, one that begins with `policies:`
//! a configuration. A comment `<!-- not checked: REASON -->` in the line before a block leaves it out.

use std::{
    fs,
    path::{Path, PathBuf},
};

use enforcer::config::Config;
use enforcer_policy::schema;
use serde_json::Value;
use tempfile::TempDir;

const FENCE: &str = "```";
const NOT_CHECKED: &str = "<!-- not checked: ";

/// Where examples of configurations say that the agent's files are.
const INSTALLED: &str = "/etc/enforcer/";

/// Where examples of policies say that secrets are.
const SECRETS: &str = "/etc/enforcer/secrets/";

/// A block of YAML.
struct Example {
    /// `FILE:LINE` of its first line.
    place: String,
    text: String,
}

/// `README.md` and what is directly in `docs`.
fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = fs::read_dir(root.join("docs")).unwrap();
    let mut files: Vec<PathBuf> = folder
        .map(|entry| entry.unwrap().path())
        .filter(|file| file.extension().is_some_and(|extension| extension == "md"))
        .collect();
    files.push(root.join("README.md"));
    files.sort();
    files
}

/// The blocks of YAML that are to be checked, of all documents.
fn examples() -> Vec<Example> {
    let mut found = Vec::new();
    for file in documents() {
        let text = fs::read_to_string(&file).unwrap();
        let mut before = "";
        let mut lines = text.lines().zip(1..);
        while let Some((line, number)) = lines.next() {
            if line.starts_with(FENCE) {
                // Every block is read to its end, so that its closing fence opens none.
                let block: Vec<&str> = lines
                    .by_ref()
                    .map(|(line, _)| line)
                    .take_while(|line| *line != FENCE)
                    .collect();
                if line == "```yaml" && !before.starts_with(NOT_CHECKED) {
                    found.push(Example {
                        place: format!("{}:{}", file.display(), number + 1),
                        text: block.join("\n") + "\n",
                    });
                }
            }
            before = line;
        }
    }
    found
}

fn beginning_with(start: &str) -> Vec<Example> {
    let mut examples = examples();
    examples.retain(|example| example.text.starts_with(start));
    examples
}

#[test]
fn every_block_of_yaml_is_of_a_known_kind() {
    for example in examples() {
        let known = ["apiVersion:", "policies:"]
            .iter()
            .any(|start| example.text.starts_with(start));
        assert!(
            known,
            "{}: nothing checks this block: begin it with `apiVersion:` or `policies:`, or write `{NOT_CHECKED}REASON -->` above it",
            example.place
        );
    }
}

#[test]
fn policies_load() {
    let examples = beginning_with("apiVersion:");
    assert!(examples.len() >= 5, "only {} examples were found", examples.len());
    let validator = jsonschema::validator_for(&schema::policies()).unwrap();
    for Example { place, text } in examples {
        let directory = TempDir::new().unwrap();
        for name in ["idp-ca.pem", "idp-secret"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        for document in serde_saphyr::from_multiple::<Value>(&text).unwrap() {
            let mistakes: Vec<String> = validator
                .iter_errors(&document)
                .map(|error| error.to_string())
                .collect();
            assert!(
                mistakes.is_empty(),
                "{place}: the schema refuses it: {mistakes:?}"
            );
        }
        let file = directory.path().join("policy.yaml");
        fs::write(&file, text.replace(SECRETS, "")).unwrap();
        let loaded = enforcer_policy::load(&[file]).unwrap_or_else(|problems| panic!("{place}:\n{problems}"));
        assert!(loaded.warnings.is_empty(), "{place}: {:?}", loaded.warnings);
    }
}

#[test]
fn configurations_load() {
    let examples = beginning_with("policies:");
    assert!(!examples.is_empty(), "no example was found");
    for Example { place, text } in examples {
        let directory = TempDir::new().unwrap();
        for folder in ["policies", "tls"] {
            fs::create_dir(directory.path().join(folder)).unwrap();
        }
        let pair = rcgen::generate_simple_self_signed(vec!["api.example.com".to_owned()]).unwrap();
        let (certificate, key) = (pair.cert.pem(), pair.signing_key.serialize_pem());
        for (name, content) in [
            ("tls.crt", &certificate),
            ("tls.key", &key),
            ("shop.crt", &certificate),
            ("shop.key", &key),
            ("ca.crt", &certificate),
            ("partners.crt", &certificate),
            ("crl.pem", &String::new()),
        ] {
            fs::write(directory.path().join("tls").join(name), content).unwrap();
        }
        let file = directory.path().join("enforcer.yaml");
        // Paths are as seen from the configuration's own directory.
        fs::write(&file, text.replace(INSTALLED, "")).unwrap();
        let config = Config::load(&file).unwrap_or_else(|problems| panic!("{place}:\n{problems}"));
        assert!(config.warnings.is_empty(), "{place}: {:?}", config.warnings);
    }
}
