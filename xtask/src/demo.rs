//! Shows the agent at work: builds it and the lab for release, and hands over to the lab.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{
    build,
    setup::{self, Need},
    shell,
};

#[derive(Args)]
pub(crate) struct Options {
    /// Options of the demo itself: --keep leaves it running to look around, --json prints its results
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    lab: Vec<OsString>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    shell::require_root(
        "the demo makes network namespaces and loads kernel programs",
        "demo",
    )?;
    setup::ensure(Need::Lab)?;
    let agent = build::agent()?;
    let lab = build::release("lab")?;
    let mut command = Command::new(&lab);
    command.arg("demo").args(&options.lab).env("ENFORCER_BIN", agent);
    // The lab takes this process's place: signals and the exit code are its own.
    let error = command.exec();
    Err(error).with_context(|| format!("{} could not be started", lab.display()))
}
