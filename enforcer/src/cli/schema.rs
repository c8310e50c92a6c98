//! `enforcer schema`

use std::io::{self, Write as _};

use clap::Args;

use super::Failure;
use enforcer_policy::schema;

/// Print the JSON Schema of policy documents, by which editors help
#[derive(Debug, Args)]
#[command(after_help = "Example:
  enforcer schema > policy.schema.json")]
pub struct Schema {
    /// Print docs/reference.md instead, a table of the fields
    #[arg(long)]
    markdown: bool,
}

impl Schema {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        if self.markdown {
            write!(out, "{}", schema::reference())?;
        } else {
            writeln!(out, "{:#}", schema::policies())?;
        }
        Ok(())
    }
}
