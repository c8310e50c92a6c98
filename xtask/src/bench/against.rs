//! Measures this tree beside another revision: builds both for release, runs the benchmark of one after the other in
//! turns, and compares within each pair.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::interval::{Interval, Outcome};
use crate::{build, shell};

/// Pairs of runs unless the user says otherwise.
pub(crate) const PAIRS: usize = 15;

/// Which benchmark.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    Kernel,
    Gateway,
}

impl Half {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Gateway => "gateway",
        }
    }

    /// One round of our own rows, and as little else as the benchmark can do.
    const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Kernel => &["--rounds", "1", "--only", "one_limit,everything"],
            Self::Gateway => &[
                "--rounds", "1", "--only", "enforcer", "--idle", "0", "--slow", "0",
            ],
        }
    }
}

/// The programs of one tree.
struct Programs {
    agent: PathBuf,
    lab: PathBuf,
}

/// Builds and measures both, and prints a row for each figure.
///
/// # Errors
/// The revision does not exist or does not build, or a run fails.
pub(super) fn run(half: Half, revision: &str, pairs: usize, lab: &[OsString]) -> Result<()> {
    if pairs < Interval::LEAST {
        bail!(
            "--pairs {pairs}: {} pairs are the fewest that a 95 % interval can be told from",
            Interval::LEAST
        );
    }
    let commit = shell::output_of(
        "git",
        [
            "rev-parse",
            "--verify",
            "--quiet",
            &format!("{revision}^{{commit}}"),
        ],
    )
    .with_context(|| format!("git knows no revision `{revision}`"))?;
    let folder = shell::target().join("against").join(&commit);
    let tree = check_out(&commit, &folder)?;
    let before = Programs {
        agent: build::release_of(&tree, "enforcer", &folder.join("target"))?,
        lab: build::release_of(&tree, "lab", &folder.join("target"))?,
    };
    let now = Programs {
        agent: build::release("enforcer")?,
        lab: build::release("lab")?,
    };
    let mut ratios = BTreeMap::new();
    for pair in 1..=pairs {
        // Whoever comes second finds a warmer machine: they take turns.
        let (first, second) = if pair % 2 == 0 {
            (&before, &now)
        } else {
            (&now, &before)
        };
        let mut costs = [first, second].map(|programs| measure(half, programs, &now, lab, &folder));
        if pair % 2 == 0 {
            costs.reverse();
        }
        let [now, before] = costs;
        add(&mut ratios, &now?, &before?);
        println!("   pair {pair} of {pairs}");
    }
    print(half, &commit, &ratios)
}

/// The sources of a commit, in a folder below `folder`.
fn check_out(commit: &str, folder: &Path) -> Result<PathBuf> {
    let tree = folder.join("tree");
    if tree.join("Cargo.lock").exists() {
        return Ok(tree);
    }
    fs::create_dir_all(&tree).with_context(|| format!("{} cannot be made", tree.display()))?;
    let archive = folder.join("tree.tar");
    shell::run(
        Command::new("git")
            .current_dir(shell::root())
            .args(["archive", "--format", "tar", "--output"])
            .args([archive.as_os_str(), commit.as_ref()]),
    )?;
    shell::run(
        Command::new("tar")
            .arg("--extract")
            .arg("--file")
            .arg(&archive)
            .arg("--directory")
            .arg(&tree),
    )?;
    fs::remove_file(&archive)?;
    Ok(tree)
}

/// One run: what each figure of our rows cost, by name. Lower is better.
///
/// The gateway is measured from outside, so both agents meet the load of this tree. The kernel half is part of the lab
/// that measures it.
fn measure(
    half: Half,
    programs: &Programs,
    now: &Programs,
    lab: &[OsString],
    folder: &Path,
) -> Result<BTreeMap<String, f64>> {
    let program = match half {
        Half::Kernel => &programs.lab,
        Half::Gateway => &now.lab,
    };
    let results = folder.join("results.json");
    let mut command = Command::new(program);
    command
        .args(["bench", half.name()])
        .args(half.arguments())
        .args(lab)
        .arg("--json")
        .arg(&results)
        .env("ENFORCER_BIN", &programs.agent);
    shell::run_quietly(&mut command, |_| {})?;
    let text = fs::read(&results).with_context(|| format!("{} cannot be read", results.display()))?;
    let costs = costs(half, &serde_json::from_slice(&text)?);
    if costs.is_empty() {
        bail!(
            "{} wrote no figures: do the options leave any?",
            shell::shown(&command)
        );
    }
    Ok(costs)
}

/// The figures in a benchmark's JSON, by name, as costs.
fn costs(half: Half, results: &Value) -> BTreeMap<String, f64> {
    let list = |name: &str| results[name].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match half {
        Half::Gateway => list("cells")
            .iter()
            .filter(|cell| cell["proxy"] == "enforcer")
            .filter_map(|cell| Some((text(&cell["case"]), cell["microseconds"].as_f64()?)))
            .collect(),
        Half::Kernel => {
            // A packet's time, beside an empty program's in the same run.
            let cells = list("cells");
            let rates = cells
                .iter()
                .filter(|cell| cell["contender"] != "empty")
                .filter_map(|cell| {
                    let name = format!("{}, {} sources", text(&cell["contender"]), text(&cell["sources"]));
                    Some((name, 1.0 / cell["ratio_to_empty"].as_f64()?))
                });
            let stages = list("stages");
            let stages = stages
                .iter()
                .filter_map(|stage| Some((text(&stage["stage"]), stage["ns"].as_f64()?)));
            rates.chain(stages).collect()
        }
    }
}

/// Adds a pair's ratios. Figures that one of both lacks are left out.
fn add(ratios: &mut BTreeMap<String, Vec<f64>>, now: &BTreeMap<String, f64>, before: &BTreeMap<String, f64>) {
    for (name, cost) in now {
        if let Some(before) = before.get(name).filter(|before| **before > 0.0) {
            ratios.entry(name.clone()).or_default().push(cost / before);
        }
    }
}

fn print(half: Half, commit: &str, ratios: &BTreeMap<String, Vec<f64>>) -> Result<()> {
    println!(
        "\nCost of this tree beside {commit:.12}, bench {}, on {}\n",
        half.name(),
        processor()
    );
    println!("{:44}{:>8}{:>18}  pairs", "", "median", "95 % interval");
    let mut slower = Vec::new();
    for (name, ratios) in ratios {
        let Some(interval) = Interval::of(ratios) else {
            continue;
        };
        let outcome = interval.outcome();
        println!(
            "{name:44}{:>8.3}{:>18}  {:>5}  {outcome}",
            interval.median,
            format!("{:.3} to {:.3}", interval.low, interval.high),
            ratios.len()
        );
        if outcome == Outcome::Slower {
            slower.push(name.as_str());
        }
    }
    if slower.is_empty() {
        println!("\nNo row is slower.");
        return Ok(());
    }
    bail!("slower by more than 2 %: {}", slower.join("; "))
}

/// The name of this machine's processor.
fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name"));
    name.and_then(|rest| rest.split_once(':')).map_or_else(
        || "an unknown processor".to_owned(),
        |(_, name)| name.trim().to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_gateways_costs_are_our_microseconds() {
        let results = json!({"cells": [
            {"proxy": "enforcer", "case": "http1", "microseconds": 15.0},
            {"proxy": "nginx", "case": "http1", "microseconds": 17.0},
        ]});
        assert_eq!(
            costs(Half::Gateway, &results),
            BTreeMap::from([("http1".to_owned(), 15.0)])
        );
    }

    #[test]
    fn the_kernels_costs_are_times_beside_the_empty_program_and_nanoseconds() {
        let results = json!({
            "cells": [
                {"contender": "empty", "sources": "1", "ratio_to_empty": 1.0},
                {"contender": "one_limit", "sources": "1", "ratio_to_empty": 0.5},
            ],
            "stages": [{"stage": "no policy", "ns": 40.0}],
        });
        assert_eq!(
            costs(Half::Kernel, &results),
            BTreeMap::from([
                ("one_limit, 1 sources".to_owned(), 2.0),
                ("no policy".to_owned(), 40.0)
            ])
        );
    }

    #[test]
    fn ratios_are_within_a_pair() {
        let mut ratios = BTreeMap::new();
        let costs = |cost: f64| BTreeMap::from([("a".to_owned(), cost), ("b".to_owned(), 1.0)]);
        add(&mut ratios, &costs(3.0), &costs(2.0));
        add(&mut ratios, &costs(3.0), &BTreeMap::from([("b".to_owned(), 0.0)]));
        assert_eq!(
            ratios,
            BTreeMap::from([("a".to_owned(), vec![1.5]), ("b".to_owned(), vec![1.0])])
        );
    }
}
