//! The demo: a node with everything on it, real requests, a real flood, and what the kernel did about it.

mod flood;
pub mod policies;
mod requests;
pub mod screen;
pub mod setup;
mod table;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::{cleanup, netns::PREFIX, residue};
use flood::Phase;
use requests::Check;
use screen::Screen;
use setup::{Plan, Stage};

/// How the demo is run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Leave the lab running until Ctrl-C.
    pub keep: bool,
    /// Where the results are written as JSON.
    pub json: Option<PathBuf>,
}

/// Everything the demo found out.
#[derive(Debug, Serialize)]
pub struct Results {
    /// Whether all that must hold did.
    pub passed: bool,
    /// What must hold and did not.
    pub broken: Vec<String>,
    pub requests: Vec<Check>,
    pub phases: Vec<Phase>,
}

/// Runs the demo and prints it. Gives whether all that must hold did.
///
/// # Errors
/// If the lab or the agent cannot run at all.
pub fn run(options: &Options) -> Result<bool> {
    let screen = Screen::default();
    let before = residue::find(PREFIX)?;
    let stage = Stage::build(&screen, &Plan::default())?;
    let prefix = stage.lab().prefix().to_owned();

    screen.step("Sending requests, good and bad");
    let requests = requests::run(&stage)?;
    let phases = flood::run(&stage, &screen)?;
    let results = Results::judge(requests, phases);

    table::print(&screen, &results);
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&results)?;
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if options.keep {
        let interrupts = cleanup::interrupts();
        stage.print_commands(&screen);
        interrupts.recv()?;
    }
    screen.step("Taking the lab down");
    drop(stage);
    residue::wait_for_none(&prefix, &before, setup::PATIENCE)?;
    screen.done("Nothing is left: no namespace, no interface, no pinned object");
    Ok(results.passed)
}

impl Results {
    fn judge(requests: Vec<Check>, phases: Vec<Phase>) -> Self {
        let mut broken: Vec<String> = requests
            .iter()
            .filter(|check| !check.holds)
            .map(|check| format!("{}: expected {}, got {}", check.what, check.expected, check.got))
            .collect();
        broken.extend(phases.iter().flat_map(|phase| phase.broken.iter().cloned()));
        Self {
            passed: broken.is_empty(),
            broken,
            requests,
            phases,
        }
    }
}
