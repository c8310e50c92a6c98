//! The `enforcer` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use enforcer::cli::Cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Cli::parse().run()
}
