//! Every check, in stages, the quick ones first.

use std::{
    env,
    ffi::OsString,
    fmt,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};

use crate::{
    count::Count,
    dependencies,
    residue::Traces,
    setup::{self, Need},
    shell::{self, HOST_CRATES},
    vm,
};

#[derive(Args)]
pub(crate) struct Options {
    /// Runs this stage alone; may be given more than once
    #[arg(long, value_enum, value_name = "STAGE")]
    only: Vec<Stage>,
    /// Fails a test that cannot run here, instead of skipping it; always so for root
    #[arg(long)]
    no_skip: bool,
    /// Long checks with their full counts: packets against Linux, policies in shadow; an hour and more
    #[arg(long)]
    full: bool,
    /// Boots this kernel, as 6.12, and runs the tests on it alone; may be given more than once
    #[arg(long, value_name = "VERSION", conflicts_with = "only")]
    vm: Vec<String>,
}

impl Options {
    fn wants(&self, stage: Stage) -> bool {
        if self.vm.is_empty() {
            self.only.is_empty() || self.only.contains(&stage)
        } else {
            stage == Stage::Vm
        }
    }

    /// Says what will run.
    fn tell(&self) {
        let stages: Vec<String> = Stage::value_variants()
            .iter()
            .filter(|stage| self.wants(**stage))
            .map(Stage::to_string)
            .collect();
        println!("stages: {}", stages.join(", "));
        if self.full {
            println!(
                "full counts: 1,000,000 packets against this Linux, {} against each of the machines', 10,000 sets of policies with one in shadow",
                vm::FULL_PACKETS
            );
        }
    }

    /// As a build server runs them: a check that cannot run has failed.
    pub(crate) fn continuous_integration() -> Self {
        Self {
            only: Vec::new(),
            no_skip: true,
            full: false,
            vm: Vec::new(),
        }
    }
}

/// In the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// Every crate is formatted
    Format,
    /// Clippy finds nothing in the agent, the lab, or what builds them
    Lints,
    /// Clippy finds nothing in the kernel programs
    KernelLints,
    /// The documentation of the crates builds, and its links lead somewhere
    Docs,
    /// Dependencies are as deny.toml wants them
    Dependencies,
    /// Unit and property tests, tables of packets through the kernel programs
    Unit,
    /// Hostile bytes into the agent's readers: seeds, and changes of them
    Fuzz,
    /// The examples in the documentation
    Examples,
    /// Integration tests, one at a time: the network lab end to end, the deployment files
    Scenarios,
    /// The kernel's tables and what is attached to interfaces, on Debian's kernels in QEMU
    Vm,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.pad(value.as_ref().map_or("", |value| value.get_name()))
    }
}

/// Runs the stages and stops at the first that fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let started = Instant::now();
    setup::ensure(Need::Test)?;
    let mut results = vec![("set-up".to_owned(), started.elapsed(), String::new())];
    let no_skip = options.no_skip || shell::is_root();
    options.tell();
    if !no_skip {
        println!(
            "not root: tests that need it skip themselves; `sudo -E env \"PATH=$PATH\" cargo xtask test` runs them"
        );
    }
    for &stage in Stage::value_variants() {
        if !options.wants(stage) {
            continue;
        }
        println!("\n== {stage}");
        let begun = Instant::now();
        let detail = stage.run(options, no_skip).with_context(|| {
            format!(
                "stage {stage} failed after {}; to run it again: `cargo xtask test --only {stage}`",
                shell::seconds(begun.elapsed())
            )
        })?;
        println!("   {stage}: ok, {}", shell::seconds(begun.elapsed()));
        results.push((stage.to_string(), begun.elapsed(), detail));
    }
    print_summary(&results, started.elapsed());
    Ok(())
}

fn print_summary(results: &[(String, Duration, String)], total: Duration) {
    println!("\n{:<14} {:>12}  result", "stage", "time");
    for (name, time, detail) in results {
        let separator = if detail.is_empty() { "" } else { ": " };
        println!("{name:<14} {:>12}  ok{separator}{detail}", shell::seconds(*time));
    }
    println!(
        "{:<14} {:>12}  every stage passed",
        "total",
        shell::seconds(total)
    );
}

impl Stage {
    /// Runs the stage; the answer is what the summary says beside it.
    fn run(self, options: &Options, no_skip: bool) -> Result<String> {
        match self {
            Self::Format => command(shell::cargo(["fmt", "--all", "--check"])),
            Self::Lints => command(host("clippy", &["--all-targets", "--", "-D", "warnings"])),
            Self::KernelLints => command(kernel_lints()),
            Self::Docs => command(docs()),
            Self::Dependencies => dependencies::check(),
            Self::Unit => tests(host("test", &["--lib", "--bins"]), no_skip),
            Self::Fuzz => tests(host("test", &["--test", "library", "hostile_inputs"]), no_skip),
            Self::Examples => tests(host("test", &["--doc"]), no_skip),
            Self::Scenarios => scenarios(no_skip, options.full),
            Self::Vm => virtual_machines(&options.vm, options.full),
        }
    }
}

fn command(mut command: Command) -> Result<String> {
    println!("   {}", shell::shown(&command));
    shell::run(&mut command)?;
    Ok(String::new())
}

/// A cargo command on every crate of this machine.
///
/// Always on the same crates, and never without those that only tests depend on: cargo chooses the
/// features of dependencies by what is asked for, and would compile everything again for each choice.
fn host(subcommand: &str, arguments: &[&str]) -> Command {
    let mut command = shell::cargo([subcommand]);
    command.args(HOST_CRATES).args(arguments);
    command
}

/// The kernel programs are linted as if for this machine: their own compiler may have no clippy.
fn kernel_lints() -> Command {
    let mut command = shell::cargo(["clippy", "--package", "enforcer-ebpf", "--package", "lab-ebpf"]);
    command
        .args(["--locked", "--", "-D", "warnings"])
        // aya hands a program its context by value.
        .args(["-A", "clippy::needless_pass_by_value"])
        // They use unstable intrinsics, and have no unwinding.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_PROFILE_DEV_PANIC", "abort")
        // Both change how everything is compiled: keep that away from the other stages.
        .env("CARGO_TARGET_DIR", shell::target().join("kernel-lints"));
    command
}

fn docs() -> Command {
    // `--examples`, of which there are none, selects what tests depend on: see `host`.
    let mut command = host(
        "doc",
        &["--no-deps", "--document-private-items", "--lib", "--examples"],
    );
    command.env("RUSTDOCFLAGS", "-D warnings");
    command
}

/// Runs the integration tests one at a time, for they share the machine's network, with the agent
/// that the other stages compiled.
fn scenarios(no_skip: bool, full: bool) -> Result<String> {
    command(host("build", &["--all-targets"]))?;
    let agent = shell::target().join("debug/enforcer");
    let agent = agent
        .canonicalize()
        .with_context(|| format!("cargo built no {}", agent.display()))?;
    let mut command = host("test", &["--test", "*", "--", "--test-threads=1"]);
    command.env("ENFORCER_BIN", agent);
    if full {
        command.env("ENFORCER_FULL", "1");
    }
    tests(command, no_skip)
}

/// Runs tests on the kernels that are asked for, or else on those that every run boots.
fn virtual_machines(asked: &[String], full: bool) -> Result<String> {
    for version in asked {
        setup::install_machine(version)?;
    }
    command(host("build", &["--all-targets"]))?;
    let all = vm::KERNELS.map(str::to_owned);
    vm::run(
        if asked.is_empty() { &all } else { asked },
        &vm::Extent {
            hurried: !asked.is_empty() || full,
            full,
        },
        host("test", &["--test", "*"]),
    )
}

/// Runs tests, counts them, and makes sure that they left nothing behind.
fn tests(mut command: Command, no_skip: bool) -> Result<String> {
    println!("   {}", shell::shown(&command));
    if no_skip {
        command.env("ENFORCER_NO_SKIP", "1");
    }
    with_tools(&mut command)?;
    let before = Traces::now();
    let mut count = Count::default();
    shell::run_reading(&mut command, |line| count.add(line))?;
    before.check()?;
    Ok(format!("{count}; nothing left behind"))
}

/// Puts what set-up installed for the checks first on the command's search path.
fn with_tools(command: &mut Command) -> Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    let path: OsString =
        env::join_paths(std::iter::once(shell::tools().join("bin")).chain(env::split_paths(&path)))
            .context("the workspace's path holds a colon, which a search path cannot: move it")?;
    command.env("PATH", path);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_named_as_the_command_line_takes_it() {
        for stage in Stage::value_variants() {
            assert_eq!(Stage::from_str(&stage.to_string(), false), Ok(*stage));
        }
    }
}
