//! The benchmark of the kernel half: how many packets a second one processor decides about, beside an
//! empty program and beside what the kernel brings along (nftables, iptables).
//!
//! Rounds are interleaved and medians reported, and every figure has its ratio to the empty program of
//! the same round: machines are noisy, and noise hits neighbours alike.

mod contenders;
mod footprint;
mod link;
mod plot;
mod policies;
mod report;
mod stages;
mod traffic;

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, bail};

use self::{
    contenders::{Contender, Standing},
    report::{Cell, Results},
    traffic::Column,
};
use super::{Machine, write};
use crate::{cleanup, netns, privilege};

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the results go as JSON.
    pub json: Option<PathBuf>,
    /// Where the plot goes as SVG.
    pub plot: Option<PathBuf>,
    /// Rounds, of which medians are taken.
    pub rounds: usize,
    /// Rows to measure beside the empty program's; empty for all.
    pub only: Vec<String>,
    /// How long each cell is measured in each round.
    pub each: Duration,
}

/// Measures, prints the tables and writes the files.
///
/// # Errors
/// If this process is not root, a tool is missing, or the kernel refuses something.
pub fn run(options: &Options) -> Result<()> {
    if !privilege::is_root() {
        bail!(
            "the benchmark makes network namespaces and loads kernel programs, which needs root: run it with sudo"
        );
    }
    if options.rounds == 0 || options.each.is_zero() {
        bail!("rounds and time must be above zero");
    }
    let contenders = Contender::chosen(&options.only)?;
    contenders::require_tools(&contenders)?;
    cleanup::on_signals();
    netns::remove_stale()?;
    let stages = stages::measure()?;
    let footprint = footprint::measure()?;
    let results = Results {
        machine: Machine::this(),
        rounds: options.rounds,
        seconds: options.each.as_secs_f64(),
        cells: measure(options, &contenders)?,
        stages,
        footprint,
    };
    results.print();
    if let Some(file) = &options.json {
        write(file, &(serde_json::to_string_pretty(&results)? + "\n"))?;
    }
    if let Some(file) = &options.plot {
        write(file, &plot::svg(&results))?;
    }
    Ok(())
}

/// All cells, row by row.
fn measure(options: &Options, contenders: &[Contender]) -> Result<Vec<Cell>> {
    let mut standing = Vec::new();
    for &contender in contenders {
        eprintln!("bench: setting up: {}", contender.title());
        standing.push(Standing::new(contender)?);
    }
    let mut samples = vec![vec![Vec::new(); Column::ALL.len()]; standing.len()];
    for round in 0..=options.rounds {
        for (at, column) in Column::ALL.into_iter().enumerate() {
            for (row, standing) in standing.iter().enumerate() {
                if round == 0 {
                    // Tables fill in the first round, which nobody counts.
                    standing.warm(column)?;
                } else {
                    samples[row][at].push(standing.measure(column, options.each)?);
                }
            }
        }
        eprintln!("bench: round {round} of {}", options.rounds);
    }
    Ok(report::cells(contenders, &samples))
}
