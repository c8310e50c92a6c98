//! `enforcer check`

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::anyhow;
use clap::Args;

use super::{Failure, Output, colors};
use crate::check;
use enforcer_policy::Severity;
use enforcer_sys::interfaces;

/// Validate configuration and policies, offline
///
/// Reports everything that is wrong at once, each with file, line, column and what would be right.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  enforcer check /etc/enforcer/enforcer.yaml       the configuration, and the policies that it names
  enforcer check --on-node /etc/enforcer/enforcer.yaml   also whether the interfaces are there
  enforcer check policies/ extra.yaml              files and directories, as one set
  enforcer check --strict - < candidate.yaml       what comes by the pipe; warnings fail too, as in CI
  enforcer check --output json policies/ | jq .problems")]
pub struct Check {
    /// Files or directories; - is standard input
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Fail (exit code 2) on warnings too
    #[arg(long)]
    strict: bool,
    /// Warn of interfaces that policies name and this machine does not have: for the node that the files are for
    #[arg(long)]
    on_node: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Check {
    pub(super) fn run(self) -> Result<(), Failure> {
        let present: Option<Vec<String>> = self.on_node.then(|| interfaces::names().into_values().collect());
        if present.as_ref().is_some_and(Vec::is_empty) {
            return Err(Failure::Failed(anyhow!(
                "the interfaces of this machine cannot be listed"
            )));
        }
        let report = check::check_with(&self.paths, io::stdin().lock(), present.as_deref());
        let mut out = io::BufWriter::new(io::stdout().lock());
        match self.output {
            Output::Text => report.print(&mut out, colors())?,
            Output::Json => report.print_json(&mut out)?,
        }
        out.flush()?;
        let has_warnings = report.count(Severity::Warning) > 0;
        if report.is_ok() && !(self.strict && has_warnings) {
            Ok(())
        } else {
            Err(Failure::Reported)
        }
    }
}
