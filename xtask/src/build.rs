//! Builds the agent for release.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

use crate::{
    setup::{self, Need},
    shell,
};

pub(crate) fn run() -> Result<()> {
    setup::ensure(Need::Build)?;
    let agent = agent()?;
    let size = fs::metadata(&agent)
        .with_context(|| format!("{} is not there after the build", agent.display()))?
        .len();
    println!("{} ({:.1} MB)", agent.display(), size as f64 / 1e6);
    Ok(())
}

/// Builds the agent and says where it is.
pub(crate) fn agent() -> Result<PathBuf> {
    release("enforcer")
}

/// Builds the program of a crate, both of one name, and says where it is.
pub(crate) fn release(name: &str) -> Result<PathBuf> {
    shell::step(&format!("build {name} for release"), || {
        shell::run(&mut shell::cargo([
            "build",
            "--release",
            "--locked",
            "--package",
            name,
        ]))
    })?;
    let program = shell::target().join("release").join(name);
    program
        .canonicalize()
        .with_context(|| format!("cargo built no {}", program.display()))
}
