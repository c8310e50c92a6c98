//! Which crates we depend on, and under which licences: `deny.toml`.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// Checks the tree against `deny.toml`: all of it with cargo-deny, the banned crates without.
pub(crate) fn check() -> Result<String> {
    let rules = shell::root().join("deny.toml");
    let rules = fs::read_to_string(&rules).with_context(|| format!("{} cannot be read", rules.display()))?;
    let tree = shell::output_of("cargo", TREE).context("`cargo tree` failed: run it to see why")?;
    let present = banned_and_present(&rules, &tree);
    if !present.is_empty() {
        bail!(
            "deny.toml bans {}, and something depends on it: `cargo tree --target all --invert NAME` shows what",
            present.join(", ")
        );
    }
    if shell::program("cargo-deny").is_none() {
        return Ok(
            "banned crates only; for licences and sources too: `cargo install --locked cargo-deny`"
                .to_owned(),
        );
    }
    shell::run(&mut shell::cargo([
        "deny",
        "--offline",
        "--workspace",
        "check",
        "bans",
        "licenses",
        "sources",
    ]))?;
    Ok("bans, licences and sources".to_owned())
}

const TREE: [&str; 11] = [
    "tree",
    "--workspace",
    "--locked",
    "--target",
    "all",
    "--edges",
    "normal,build,dev",
    "--prefix",
    "none",
    "--format",
    "{p}",
];

/// The crates that `rules` bans and that `tree` contains.
fn banned_and_present(rules: &str, tree: &str) -> Vec<String> {
    let present: BTreeSet<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    banned(rules)
        .filter(|name| present.contains(name))
        .map(str::to_owned)
        .collect()
}

/// The crates of `[bans] deny`, which deny.toml writes one a line.
fn banned(rules: &str) -> impl Iterator<Item = &str> {
    rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("{ crate = \"")?.split('"').next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_ban_every_second_provider_of_tls() {
        let rules = include_str!("../../deny.toml");
        let banned: Vec<_> = banned(rules).collect();
        for name in ["ring", "openssl", "openssl-sys", "native-tls"] {
            assert!(
                banned.contains(&name),
                "{name} is not banned in deny.toml: {banned:?}"
            );
        }
    }

    #[test]
    fn a_banned_crate_is_found_by_its_whole_name() {
        let rules = "deny = [\n    { crate = \"ring\", reason = \"one provider\" },\n]";
        assert_eq!(
            banned_and_present(rules, "app v1.0.0 (/x)\nring v0.17.8\n"),
            ["ring"]
        );
        assert!(banned_and_present(rules, "ring-buffer v1.0.0\nstring v1.0.0\n").is_empty());
    }
}
