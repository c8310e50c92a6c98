//! Measures: builds the lab for release, and hands over to it.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};

use crate::{
    build,
    setup::{self, Need},
    shell,
};

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Packets per second of the kernel half, beside an empty program, nftables and iptables (needs root)
    #[command(after_help = "Example:\n  cargo xtask bench kernel --json kernel.json")]
    Kernel {
        /// Options of the benchmark itself: --json FILE, --plot FILE, --rounds N, --only ROWS
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
        lab: Vec<OsString>,
    },
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let What::Kernel { lab: arguments } = &options.what;
    if !shell::is_root() {
        bail!(
            "the benchmark makes network namespaces and loads kernel programs, which needs root: run `sudo -E env \"PATH=$PATH\" cargo xtask bench kernel`"
        );
    }
    setup::ensure(Need::Lab)?;
    setup::ensure_peers()?;
    let lab = build::release("lab")?;
    let mut command = Command::new(&lab);
    command.args(["bench", "kernel"]).args(arguments);
    // The lab takes this process's place: signals and the exit code are its own.
    let error = command.exec();
    Err(error).with_context(|| format!("{} could not be started", lab.display()))
}
