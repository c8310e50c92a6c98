//! The agent's functions of hostile bytes, under libFuzzer.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};

use crate::{
    setup::{self, Need},
    shell,
};

/// What libFuzzer reads coverage from. The compiler that everything is built with can do this.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing";

#[derive(Args)]
pub(crate) struct Options {
    /// How long each target runs
    #[arg(long, default_value_t = 60, value_name = "N")]
    seconds: u32,
    /// This target alone
    #[arg(value_enum)]
    target: Option<Reader>,
}

/// As the agent names them: see `enforcer::fuzz`.
#[derive(Clone, Copy, ValueEnum)]
enum Reader {
    /// A policy file
    Policy,
    /// A request's target
    Target,
    /// A request's target, host and transfer codings
    Head,
    /// Requests of HTTP/1.1 and their lengths
    Lengths,
    /// A request among routes
    Routes,
    /// A header of the PROXY protocol
    Proxy,
    /// An access token
    Token,
    /// A DPoP proof
    Proof,
    /// A JSON Web Key Set
    Keys,
}

/// Runs the targets one after the other; stops at the first that fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::ensure(Need::Build)?;
    let program = build()?;
    let targets = match options.target {
        Some(target) => vec![target],
        None => Reader::value_variants().to_vec(),
    };
    for target in targets {
        let name = target.to_possible_value().context("each target has a name")?;
        fuzz(&program, name.get_name(), options.seconds)?;
    }
    Ok(())
}

/// Builds the program, with counters of coverage in it and in all that it depends on.
fn build() -> Result<PathBuf> {
    let host =
        shell::output_of("rustc", ["--print", "host-tuple"]).context("`rustc --print host-tuple` failed")?;
    let folder = shell::target().join("fuzz");
    let mut cargo = shell::cargo([
        "build",
        "--release",
        "--locked",
        "--manifest-path",
        "fuzz/Cargo.toml",
    ]);
    cargo
        // Keeps the counters out of build scripts.
        .args(["--target", &host])
        .arg("--target-dir")
        .arg(&folder)
        .env("RUSTFLAGS", COVERAGE);
    shell::step("build the fuzz targets", || shell::run(&mut cargo))?;
    Ok(folder.join(host).join("release/enforcer-fuzz"))
}

fn fuzz(program: &PathBuf, name: &str, seconds: u32) -> Result<()> {
    let folder = shell::target().join("fuzz");
    // What is of interest is kept for the next run.
    let corpus = folder.join("corpus").join(name);
    fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
    let mut command = Command::new(program);
    command
        .current_dir(shell::root())
        .env("FUZZ_TARGET", name)
        .arg(format!("-max_total_time={seconds}"))
        .args([
            "-print_final_stats=1",
            "-verbosity=1",
            "-timeout=10",
            "-rss_limit_mb=2048",
        ])
        .arg(format!("-artifact_prefix={}/{name}-", folder.display()))
        .arg(&corpus)
        .arg(shell::root().join("fuzz/seeds").join(name));
    if name == "policy" {
        command.arg(shell::root().join("policies")).arg("-max_len=8192");
    }
    println!("\n== {name}");
    let done = command
        .status()
        .with_context(|| format!("{} could not be started", program.display()))?;
    ensure!(
        done.success(),
        "target {name} failed ({done}): the input is {}/{name}-*; mend the fault and add the input to fuzz/seeds/{name}",
        folder.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::shell;

    /// Cargo would say so too, but only to whoever fuzzes: nothing else reads this lock file.
    #[test]
    fn the_lock_file_has_what_the_agents_crates_depend_on() {
        let lock = fs::read_to_string(shell::root().join("fuzz/Cargo.lock")).unwrap();
        let agent = shell::root().join("enforcer");
        let folders = fs::read_dir(&agent).unwrap().map(|entry| entry.unwrap().path());
        let manifests = folders.map(|folder| folder.join("Cargo.toml"));
        let mut count = 0;
        for manifest in manifests
            .filter(|file| file.exists())
            .chain([agent.join("Cargo.toml")])
        {
            let manifest = fs::read_to_string(manifest).unwrap();
            let name = manifest
                .lines()
                .find_map(|line| line.strip_prefix("name = "))
                .unwrap();
            let locked = section(&lock, &format!("name = {name}\n"), "\n[[");
            for line in section(&manifest, "\n[dependencies]\n", "\n[").lines() {
                let dependency = line.split(['.', ' ', '=']).next().unwrap();
                // Where there are two versions of a crate, its own is behind the name.
                let is_locked = [format!("\"{dependency}\""), format!("\"{dependency} ")]
                    .iter()
                    .any(|entry| locked.contains(entry));
                assert!(
                    dependency.is_empty() || is_locked,
                    "fuzz/Cargo.lock is older than {name}'s {dependency}: `cargo metadata --manifest-path fuzz/Cargo.toml` renews it"
                );
            }
            count += 1;
        }
        assert!(count > 10, "only {count} crates were found");
    }

    fn section<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
        let (_, rest) = text.split_once(begin).unwrap();
        rest.split_once(end).map_or(rest, |(section, _)| section)
    }
}
