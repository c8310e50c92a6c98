//! The benchmark of the gateway half: what a request, a connection and a body cost it, beside nginx, HAProxy,
//! Envoy, Caddy and a bare forwarder on the same stack.
//!
//! All stand in one network namespace and have the same certificates, the same upstream and one processor. The load
//! and the upstream have another one. What counts is processor time of the proxy per request: rates depend on
//! who sends.

mod configs;
mod crowd;
pub mod floor;
mod ground;
mod plot;
mod process;
mod proxy;
mod report;
mod work;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use self::{
    ground::Ground,
    proxy::{Proxy, Standing},
    report::Results,
    work::Case,
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
    /// Proxies to measure; empty for all.
    pub only: Vec<String>,
    /// Cases to measure; empty for all.
    pub cases: Vec<String>,
    /// Idle connections at which memory is measured; zero for none.
    pub idle: usize,
    /// Slow connections, which stand with the idle ones beside a busy client; zero for none.
    pub slow: usize,
    /// Folder with the peers' programs, as `cargo xtask bench gateway` installs them.
    pub peers: PathBuf,
}

/// Measures, prints the tables and writes the files.
///
/// # Errors
/// If this process is not root, a peer's program is missing, or a proxy answers anything but what the upstream says.
pub fn run(options: &Options) -> Result<()> {
    if !privilege::is_root() {
        bail!("the benchmark makes a network namespace, which needs root: run it with sudo");
    }
    if options.rounds == 0 {
        bail!("rounds must be above zero");
    }
    let proxies = Proxy::chosen(&options.only)?;
    let cases = Case::chosen(&options.cases)?;
    // Ten thousand connections have as many descriptors, here and there.
    enforcer_sys::descriptors::raise_descriptor_limit()?;
    cleanup::on_signals();
    netns::remove_stale()?;
    let ground = Ground::make(&options.peers)?;
    let mut standing = Vec::new();
    for proxy in proxies {
        eprintln!("bench: starting {}", proxy.title());
        standing.push(Standing::start(proxy, &ground)?);
    }
    let mut few = Vec::new();
    for standing in &standing {
        // What nobody counts also warms up.
        standing.measure(Case::Http1, &ground)?;
        few.push(standing.memory_at_few(&ground)?);
    }
    let mut cells = report::Samples::default();
    for round in 1..=options.rounds {
        for &case in &cases {
            for standing in &standing {
                if case.is_about(standing.proxy) {
                    let sample = standing
                        .measure(case, &ground)
                        .with_context(|| format!("{}, {}", standing.proxy.title(), case.title()))?;
                    cells.add(standing.proxy, case, sample);
                }
            }
        }
        eprintln!("bench: round {round} of {}", options.rounds);
    }
    let mut memory = Vec::new();
    for (standing, few) in standing.iter().zip(few) {
        memory.push(standing.memory(few, options.idle, &ground)?);
        eprintln!("bench: memory of {}", standing.proxy.title());
    }
    let size = crowd::Size {
        idle: options.idle,
        slow: options.slow,
    };
    let mut felt = Vec::new();
    if size.slow > 0 {
        for standing in &standing {
            felt.push(crowd::felt(standing, size, options.rounds, &ground)?);
            eprintln!("bench: crowd beside {}", standing.proxy.title());
        }
    }
    let results = Results {
        machine: Machine::this(),
        rounds: options.rounds,
        versions: standing.iter().map(Standing::version).collect(),
        cells: cells.medians(),
        memory,
        crowd: size,
        felt,
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
