//! The program that merges what a program has counted of itself. It is LLVM's, and must know the compiler's format: that
//! is one format since LLVM 19.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use super::debian;
use crate::shell;

/// The first that knows the format: what any later compiler reads.
const OLDEST: u32 = 19;

/// The compiler's own, else the newest that is installed and not newer than the compiler's LLVM, which could not read what
/// it writes.
pub(super) fn path() -> Option<PathBuf> {
    let own = || {
        let folder = shell::output_of("rustc", ["--print", "target-libdir"])?;
        let file = Path::new(&folder).with_file_name("bin").join("llvm-profdata");
        file.is_file().then_some(file)
    };
    let installed = |version| shell::program(&format!("llvm-profdata-{version}"));
    own().or_else(|| (OLDEST..=newest()?).rev().find_map(installed))
}

/// The version of the compiler's LLVM.
fn newest() -> Option<u32> {
    let about = shell::output_of("rustc", ["--version", "--verbose"])?;
    let version = about
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

pub(super) fn find() -> Option<String> {
    path().map(|file| file.display().to_string())
}

pub(super) fn install() -> Result<()> {
    let added = Command::new("rustup")
        .args(["component", "add", "llvm-tools"])
        .status();
    if added.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    debian::install(
        &[&format!("llvm-{OLDEST}")],
        "`llvm-profdata` (rustup's component `llvm-tools`, or LLVM 19 or later)",
    )
}
