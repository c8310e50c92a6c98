//! `enforcer detach`

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::Args;

use super::{Failure, left};
use crate::config::{self, Config};
use enforcer_dataplane;

/// The usual configuration.
const CONFIG: &str = "/etc/enforcer/enforcer.yaml";

/// Detach what a stopped agent has left in force, and remove its pinned maps
///
/// An agent that is told to stop leaves its programs attached, so that the next one goes on where it was
/// (`kernel.onStop`). This takes them away: afterwards packets pass unlimited, and limiter states and automatic
/// denials are forgotten. What operators have denied comes back with the next start (`denials.json` in `stateDir`). Stop the agent first.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  systemctl stop enforcer && enforcer detach
  enforcer detach --pins /sys/fs/bpf/edge          another `kernel.pins` than the usual one")]
pub struct Detach {
    /// The folder of the pins, if not the one that `kernel.pins` of the configuration names
    #[arg(long, value_name = "FOLDER", conflicts_with = "config")]
    pins: Option<PathBuf>,
    /// The agent's configuration; if absent, the usual one if there is one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Detach {
    pub(super) fn run(self) -> Result<(), Failure> {
        let pins = match &self.pins {
            Some(pins) => pins.clone(),
            None => self.configured()?,
        };
        let found = enforcer_dataplane::detach_all(&pins)
            .with_context(|| format!("not detached from {}", pins.display()))?;
        if found {
            println!("detached; nothing is left in {}", pins.display());
            return Ok(());
        }
        let others: Vec<String> = left::folders()
            .iter()
            .map(|folder| folder.display().to_string())
            .collect();
        let found = match others.as_slice() {
            [] => "nothing is pinned elsewhere below /sys/fs/bpf either".to_owned(),
            others => format!("found: {} (detach --pins …)", others.join(", ")),
        };
        Err(Failure::Failed(anyhow!(
            "nothing is pinned at {}. Is `kernel.pins` another folder? {found}",
            pins.display()
        )))
    }

    /// The folder that the configuration names.
    fn configured(&self) -> Result<PathBuf, Failure> {
        let file = match &self.config {
            Some(file) => file.as_path(),
            None if !Path::new(CONFIG).exists() => return Ok(PathBuf::from(config::PINS)),
            None => Path::new(CONFIG),
        };
        let config = Config::load(file).map_err(|problems| {
            let problems = anyhow::Error::from(problems);
            Failure::Invalid(
                problems.context("the configuration does not say where the pins are: name them (--pins)"),
            )
        })?;
        config.kernel.pins.ok_or_else(|| {
            Failure::Failed(anyhow!(
                "{} has `kernel.pins: off`: what such an agent attaches ends with it",
                file.display()
            ))
        })
    }
}
