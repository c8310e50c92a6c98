//! `enforcer schema`

use std::io::{self, Write as _};

use clap::Args;

use super::Failure;
use crate::schema;

/// Print the JSON Schema of policy documents, by which editors help
#[derive(Debug, Args)]
#[command(after_help = "Example:
  enforcer schema > policy.schema.json")]
pub struct Schema {}

impl Schema {
    pub(super) fn run(self) -> Result<(), Failure> {
        writeln!(io::stdout().lock(), "{:#}", schema::policies())?;
        Ok(())
    }
}
