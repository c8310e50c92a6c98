//! Measures: builds the lab for release, and hands over to it.

mod against;
mod interval;

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};

use self::against::Half;
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
    #[command(
        after_help = "Example:\n  cargo xtask bench kernel --json kernel.json\n  cargo xtask bench kernel --against HEAD~1"
    )]
    Kernel {
        #[command(flatten)]
        against: Against,
        /// Options of the benchmark itself: --json FILE, --plot FILE, --rounds N, --only ROWS
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
        lab: Vec<OsString>,
    },
    /// What requests cost the gateway, beside nginx, HAProxy, Envoy and Caddy (needs root)
    #[command(
        after_help = "Example:\n  cargo xtask bench gateway --json gateway.json\n  cargo xtask bench gateway --against HEAD~1 --cases http1,http2"
    )]
    Gateway {
        #[command(flatten)]
        against: Against,
        /// Options of the benchmark itself: --json FILE, --plot FILE, --rounds N, --only PROXIES, --cases CASES, --idle N, --slow N
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
        lab: Vec<OsString>,
    },
}

/// Another revision to measure beside.
#[derive(Args)]
struct Against {
    /// Builds this revision too and measures both in turns; fails if a row is slower by more than 2 %
    #[arg(long, value_name = "REVISION")]
    against: Option<String>,
    /// How often both are measured
    #[arg(long, value_name = "N", default_value_t = against::PAIRS, requires = "against")]
    pairs: usize,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let (half, against, arguments) = match &options.what {
        What::Kernel { against, lab } => (Half::Kernel, against, lab),
        What::Gateway { against, lab } => (Half::Gateway, against, lab),
    };
    let name = half.name();
    shell::require_root(
        "the benchmark makes network namespaces and loads kernel programs",
        &format!("bench {name}"),
    )?;
    setup::ensure(Need::Lab)?;
    if let Some(revision) = &against.against {
        return against::run(half, revision, against.pairs, arguments);
    }
    match options.what {
        What::Kernel { .. } => setup::ensure_filters()?,
        What::Gateway { .. } => {
            setup::ensure_proxies()?;
            // The lab starts the agent that lies beside it.
            build::release("enforcer")?;
        }
    }
    let lab = build::release("lab")?;
    let mut command = Command::new(&lab);
    command.args(["bench", name]);
    if let What::Gateway { .. } = options.what {
        command.arg("--peers").arg(setup::proxies_folder());
    }
    command.args(arguments);
    // The lab takes this process's place: signals and the exit code are its own.
    let error = command.exec();
    Err(error).with_context(|| format!("{} could not be started", lab.display()))
}
