//! What people and CI run.
//!
//! Each command first runs the part of the set-up that it needs, which takes no time and no network
//! when everything is there.
#![forbid(unsafe_code)]

mod bench;
mod build;
#[cfg(test)]
mod confinement;
mod count;
mod crates;
mod demo;
mod dependencies;
mod dist;
mod fuzz;
mod lines;
mod origin;
mod profile;
mod residue;
mod sbom;
mod setup;
mod shell;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "What people and CI run"
)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Makes this machine ready to build and test Enforcer
    ///
    /// Finds what is there, installs only what is missing, and says what it chose and why. May be
    /// run again at any time.
    #[command(after_help = "Example:\n  cargo xtask setup")]
    Setup,
    /// Builds the agent for release
    #[command(after_help = "Example:\n  cargo xtask build && target/release/enforcer --help")]
    Build,
    /// Shows Enforcer at work against a flood, in network namespaces of its own (needs root)
    #[command(after_help = "Example:\n  cargo xtask demo\n  cargo xtask demo --keep")]
    Demo(demo::Options),
    /// Measures Enforcer beside its peers, in one run
    #[command(after_help = "Example:\n  cargo xtask bench kernel --json kernel.json")]
    Bench(bench::Options),
    /// Runs every check, in stages, and stops at the first that fails
    #[command(
        after_help = "Example:\n  cargo xtask test\n  cargo xtask test --only unit\n  cargo xtask test --vm 6.1"
    )]
    Test(test::Options),
    /// Feeds the agent's readers of hostile bytes with what libFuzzer thinks of
    ///
    /// What it finds of interest is kept in target/fuzz/corpus for the next run.
    #[command(after_help = "Example:\n  cargo xtask fuzz --seconds 180\n  cargo xtask fuzz policy")]
    Fuzz(fuzz::Options),
    /// Runs every check as a build server does: a test that cannot run is a failure
    #[command(after_help = "Example:\n  cargo xtask ci")]
    Ci,
    /// Draws the crates and what they depend on into docs/architecture.md
    #[command(after_help = "Example:\n  cargo xtask crates && git diff docs/architecture.md")]
    Crates,
    /// Counts lines of code, comments and tests, by crate
    #[command(after_help = "Example:\n  cargo xtask lines")]
    Lines,
    /// Renews the profile that releases are compiled with: enforcer/release.profdata (needs root)
    ///
    /// Builds agent and lab so that they count which way they go, and runs the gateway's benchmark through them.
    #[command(after_help = "Example:\n  cargo xtask profile && git diff --stat enforcer/release.profdata")]
    Profile,
    /// Packs the agent, its policies, deployment files and bill of materials into target/dist
    ///
    /// The archive's checksum, and those of the files in it, are signed with a key of SSH's if one is given.
    #[command(
        after_help = "Example:\n  cargo xtask dist && ls target/dist\n  cargo xtask dist --sign ~/.ssh/release_ed25519"
    )]
    Dist(dist::Options),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Task::Setup => setup::report(),
        Task::Build => build::run(),
        Task::Demo(options) => demo::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Ci => test::run(&test::Options::continuous_integration()),
        Task::Crates => crates::run(),
        Task::Lines => lines::run(),
        Task::Profile => profile::run(),
        Task::Dist(options) => dist::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
