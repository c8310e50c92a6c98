//! The program that merges what a program has counted of itself. It is LLVM's, and must know the compiler's format: that
//! is one format since LLVM 19.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use super::debian;
use crate::shell;

/// The oldest that Debian has and that knows the format.
const PACKAGE: &str = "llvm-19";
const VERSIONS: std::ops::RangeInclusive<u32> = 19..=30;

/// The compiler's own, else one that is installed.
pub(super) fn path() -> Option<PathBuf> {
    let own = || {
        let folder = shell::output_of("rustc", ["--print", "target-libdir"])?;
        let file = Path::new(&folder).with_file_name("bin").join("llvm-profdata");
        file.is_file().then_some(file)
    };
    let installed = |version| shell::program(&format!("llvm-profdata-{version}"));
    own().or_else(|| VERSIONS.rev().find_map(installed))
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
        &[PACKAGE],
        "`llvm-profdata` (rustup's component `llvm-tools`, or LLVM 19 or later)",
    )
}
