//! The `enforcer` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use enforcer::cli::Cli;
use enforcer_sys::memory;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything is allocated; `run` does it again, and says if it cannot be.
    let _ = memory::small_pages();
    Cli::parse().run()
}
