//! `enforcer detach`

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::Failure;
use crate::{config, kernel};

/// Detach what a stopped agent has left in force, and remove its pinned maps
///
/// An agent that is told to stop leaves its programs attached, so that the next one goes on where it was
/// (`kernel.onStop`). This takes them away: afterwards packets pass unlimited, and limiter states and denials
/// are forgotten. Stop the agent first.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  systemctl stop enforcer && enforcer detach
  enforcer detach --pins /sys/fs/bpf/edge          another `kernel.pins` than the usual one")]
pub struct Detach {
    /// The folder that `kernel.pins` names
    #[arg(long, value_name = "FOLDER", default_value = config::PINS)]
    pins: PathBuf,
}

impl Detach {
    pub(super) fn run(self) -> Result<(), Failure> {
        let found = kernel::detach_all(&self.pins)
            .with_context(|| format!("not detached from {}", self.pins.display()))?;
        if found {
            println!("detached; nothing is left in {}", self.pins.display());
        } else {
            println!("nothing was attached: there is no {}", self.pins.display());
        }
        Ok(())
    }
}
