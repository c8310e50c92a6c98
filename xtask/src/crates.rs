//! The crates of the workspace: which may depend on which, and a figure of it in `docs/architecture.md`.

use std::{collections::BTreeMap, fmt::Write as _, fs};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::shell;

/// Where the figure is.
const DOCUMENT: &str = "docs/architecture.md";
/// Between these lines.
const BEGIN: &str = "<!-- crates: written by `cargo xtask crates` -->";
const END: &str = "<!-- /crates -->";

/// The crates in their layers, lowest first. A crate depends on crates of lower layers only: never on one beside it.
const LAYERS: [&[&str]; 7] = [
    &["enforcer-common", "enforcer-http-rules", "enforcer-supervision"],
    &["enforcer-sys", "enforcer-model", "enforcer-telemetry"],
    &["enforcer-routing", "enforcer-tls"],
    &["enforcer-policy", "enforcer-dataplane"],
    &["enforcer-gateway"],
    &["enforcer"],
    &["lab"],
];

/// The crates that each crate depends on, tests aside.
type Dependencies = BTreeMap<String, Vec<String>>;

/// Writes the figure.
pub(crate) fn run() -> Result<()> {
    let dependencies = dependencies()?;
    check(&dependencies)?;
    let file = shell::root().join(DOCUMENT);
    let text = fs::read_to_string(&file).with_context(|| format!("{DOCUMENT} cannot be read"))?;
    let new = with_figure(&text, &figure(&dependencies))?;
    fs::write(&file, new).with_context(|| format!("{DOCUMENT} cannot be written"))?;
    println!("{DOCUMENT} has the figure of the crates");
    Ok(())
}

/// Asks cargo.
fn dependencies() -> Result<Dependencies> {
    let metadata = shell::output_of("cargo", ["metadata", "--no-deps", "--format-version", "1"])
        .context("`cargo metadata` failed")?;
    let metadata: Value = serde_json::from_str(&metadata).context("`cargo metadata` printed no JSON")?;
    let packages = metadata["packages"].as_array().context("there are no packages")?;
    let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
    let ours: Vec<_> = packages.iter().map(name).collect();
    let of = |package: &Value| {
        let all = package["dependencies"].as_array().into_iter().flatten();
        let mut found: Vec<_> = all
            .filter(|dependency| dependency["kind"].is_null())
            .map(name)
            .filter(|name| ours.contains(name))
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    };
    let layered = |name: &String| layer(name).is_some();
    Ok(packages
        .iter()
        .map(|package| (name(package), of(package)))
        .filter(|(name, _)| layered(name))
        .collect())
}

/// The crate's layer, from 0. `None`: it is a tool or a kernel program, and no part of the agent.
fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&name))
}

/// Whether every crate depends on lower layers only.
fn check(dependencies: &Dependencies) -> Result<()> {
    for (name, on) in dependencies {
        for each in on {
            if layer(each).is_none_or(|below| Some(below) >= layer(name)) {
                bail!("{name} depends on {each}, which is not in a lower layer: see xtask/src/crates.rs");
            }
        }
    }
    Ok(())
}

/// Mermaid, without arrows that follow from others.
fn figure(dependencies: &Dependencies) -> String {
    let mut text = String::from("```mermaid\nflowchart TD\n");
    for layer in LAYERS.iter().rev() {
        for name in *layer {
            let _ = writeln!(text, "    {name}");
        }
    }
    for (name, on) in dependencies {
        for each in on {
            let is_implied = on
                .iter()
                .any(|other| other != each && reaches(dependencies, other, each));
            if !is_implied {
                let _ = writeln!(text, "    {name} --> {each}");
            }
        }
    }
    text.push_str("```\n");
    text
}

fn reaches(dependencies: &Dependencies, from: &str, to: &str) -> bool {
    let on = dependencies.get(from).map(Vec::as_slice).unwrap_or_default();
    on.iter()
        .any(|each| each == to || reaches(dependencies, each, to))
}

/// The document with this figure in place of its own.
fn with_figure(text: &str, figure: &str) -> Result<String> {
    let missing = || format!("{DOCUMENT} has no lines `{BEGIN}` and `{END}`");
    let (before, rest) = text.split_once(BEGIN).with_context(missing)?;
    let (_, after) = rest.split_once(END).with_context(missing)?;
    Ok(format!("{before}{BEGIN}\n\n{figure}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_depend_on_lower_layers_only() {
        check(&dependencies().unwrap()).unwrap();
    }

    #[test]
    fn the_figure_is_as_the_crates_are() {
        let text = fs::read_to_string(shell::root().join(DOCUMENT)).unwrap();
        let new = with_figure(&text, &figure(&dependencies().unwrap())).unwrap();
        assert!(text == new, "run `cargo xtask crates`");
    }

    #[test]
    fn a_crate_beside_is_seen() {
        let of = |name: &str, on: &[&str]| (name.to_owned(), on.iter().map(ToString::to_string).collect());
        check(&Dependencies::from([of("enforcer-policy", &["enforcer-model"])])).unwrap();
        check(&Dependencies::from([of(
            "enforcer-policy",
            &["enforcer-dataplane"],
        )]))
        .unwrap_err();
        check(&Dependencies::from([of("enforcer-model", &["enforcer-gateway"])])).unwrap_err();
    }
}
