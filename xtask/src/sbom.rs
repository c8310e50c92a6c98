//! The bill of materials of a release: which crates are in the agent and in the kernel programs that it carries, as
//! CycloneDX 1.5. From `cargo metadata` and `Cargo.lock` alone, so that one commit makes one bill.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::shell;

/// What a release is made of: the agent, and the programs that are built into it.
const ROOTS: [&str; 2] = ["enforcer", "enforcer-ebpf"];

/// The bill, as JSON.
pub(crate) fn bill(target: &str) -> Result<String> {
    let mut metadata = shell::cargo([
        "metadata",
        "--locked",
        "--offline",
        "--format-version=1",
        "--filter-platform",
        target,
    ]);
    let output = metadata
        .output()
        .context("`cargo metadata` could not be started")?;
    if !output.status.success() {
        bail!(
            "`cargo metadata` failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).context("`cargo metadata` says no JSON")?;
    let lock = fs::read_to_string(shell::root().join("Cargo.lock")).context("Cargo.lock cannot be read")?;
    Ok(format!("{:#}\n", components(&metadata, &checksums(&lock))?))
}

/// The checksums of the registry's crates, by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let value = |package: &str, key: &str| {
        let line = package
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "))?;
        Some(line.trim_matches('"').to_owned())
    };
    let packages = lock.split("[[package]]").skip(1);
    let entry = |package| {
        Some((
            (value(package, "name")?, value(package, "version")?),
            value(package, "checksum")?,
        ))
    };
    packages.filter_map(entry).collect()
}

/// What the roots are made of: all that they depend on but for tests.
fn components(metadata: &Value, checksums: &BTreeMap<(String, String), String>) -> Result<Value> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let packages: BTreeMap<String, Value> = list(&metadata["packages"])
        .into_iter()
        .map(|package| (text(&package, "id"), package))
        .collect();
    let mut needs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in list(&metadata["resolve"]["nodes"]) {
        let is_used = |dependency: &Value| {
            list(&dependency["dep_kinds"])
                .iter()
                .any(|kind| kind["kind"] != "dev")
        };
        let used = list(&node["deps"])
            .into_iter()
            .filter(is_used)
            .map(|dependency| text(&dependency, "pkg"));
        needs.insert(text(&node, "id"), used.collect());
    }
    let is_root = |(_, package): &(&String, &Value)| {
        package["source"].is_null() && ROOTS.contains(&package["name"].as_str().unwrap_or_default())
    };
    let mut waiting: Vec<String> = packages
        .iter()
        .filter(is_root)
        .map(|(id, _)| id.clone())
        .collect();
    if waiting.len() != ROOTS.len() {
        bail!("`cargo metadata` does not know {}", ROOTS.join(" and "));
    }
    let mut seen = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if seen.insert(id.clone()) {
            waiting.extend(needs.get(&id).into_iter().flatten().cloned());
        }
    }
    let reference = |id: &str| {
        let package = packages.get(id)?;
        Some(format!(
            "pkg:cargo/{}@{}",
            text(package, "name"),
            text(package, "version")
        ))
    };
    let component = |id: &String| {
        let package = packages.get(id)?;
        let (name, version) = (text(package, "name"), text(package, "version"));
        let mut component = json!({
            "type": "library",
            "bom-ref": reference(id)?,
            "name": name,
            "version": version,
            "purl": reference(id)?,
        });
        if let Some(license) = package["license"].as_str() {
            component["licenses"] = json!([{"expression": license.replace('/', " OR ")}]);
        }
        if let Some(checksum) = checksums.get(&(name, version)) {
            component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
        }
        Some(component)
    };
    let dependencies = seen.iter().filter_map(|id| {
        let on: Vec<_> = needs
            .get(id)?
            .iter()
            .filter(|on| seen.contains(*on))
            .filter_map(|on| reference(on))
            .collect();
        Some(json!({"ref": reference(id)?, "dependsOn": on}))
    });
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {
            "type": "application",
            "bom-ref": "enforcer",
            "name": "enforcer",
            "version": env!("CARGO_PKG_VERSION"),
        }},
        "components": seen.iter().filter_map(component).collect::<Vec<_>>(),
        "dependencies": dependencies.collect::<Vec<_>>(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l11_the_bill_names_what_is_in_the_agent_and_nothing_of_its_tests() {
        let bill = bill("x86_64-unknown-linux-gnu").unwrap();
        let bill: Value = serde_json::from_str(&bill).unwrap();
        let components = bill["components"].as_array().unwrap();
        let of = |name: &str| components.iter().find(|component| component["name"] == name);
        for name in [
            "enforcer",
            "enforcer-common",
            "enforcer-ebpf",
            "aya",
            "aya-ebpf",
            "rustls",
            "tokio",
        ] {
            assert!(of(name).is_some(), "{name}");
        }
        for name in ["lab", "rcgen", "proptest", "xtask"] {
            assert!(of(name).is_none(), "{name}");
        }
        let rustls = of("rustls").unwrap();
        assert_eq!(rustls["hashes"][0]["content"].as_str().unwrap().len(), 64);
        assert!(
            rustls["purl"]
                .as_str()
                .unwrap()
                .starts_with("pkg:cargo/rustls@0.")
        );
        assert!(
            rustls["licenses"][0]["expression"]
                .as_str()
                .unwrap()
                .contains("Apache-2.0")
        );
        // Each crate that is needed is there.
        let known: BTreeSet<_> = components
            .iter()
            .map(|component| &component["bom-ref"])
            .map(Value::to_string)
            .collect();
        for dependency in bill["dependencies"].as_array().unwrap() {
            for on in dependency["dependsOn"].as_array().unwrap() {
                assert!(known.contains(&on.to_string()), "{on}");
            }
        }
    }
}
