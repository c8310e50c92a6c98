//! What ours takes of the kernel: instructions, and memory of maps.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use enforcer_dataplane::{Config, Kernel, Staying, XdpChoice};
use serde::Serialize;

/// Of one program.
#[derive(Debug, Serialize)]
pub(super) struct Instructions {
    pub(super) program: String,
    /// Instructions as the kernel holds them.
    pub(super) translated: u32,
    /// Instructions that the verifier looked at; a million is its limit.
    pub(super) verified: u32,
}

/// What the kernel half takes, with the agent's defaults.
#[derive(Debug, Serialize)]
pub(super) struct Footprint {
    pub(super) programs: Vec<Instructions>,
    /// By map, in bytes.
    pub(super) maps: BTreeMap<String, u64>,
    pub(super) maps_total: u64,
}

/// Loads the programs and asks the kernel.
pub(super) fn measure() -> Result<Footprint> {
    let config = Config {
        xdp: XdpChoice::Auto,
        management: Vec::new(),
        sketch_bytes: 4 << 20,
        max_flows: 65_536,
    };
    let kernel = Kernel::load(&config, &Staying::NOT)?;
    let (mut program_ids, mut map_bytes) = (Vec::new(), BTreeMap::new());
    for entry in std::fs::read_dir("/proc/self/fdinfo").context("cannot list open files")? {
        let Ok(text) = std::fs::read_to_string(entry?.path()) else {
            continue;
        };
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
        };
        if let Some(id) = field("prog_id:") {
            program_ids.push(id);
        } else if let Some(id) = field("map_id:") {
            map_bytes.insert(id, field("memlock:").unwrap_or(0));
        }
    }
    let mut programs = Vec::new();
    for info in aya::programs::loaded_programs() {
        let info = info?;
        if program_ids.contains(&u64::from(info.id())) {
            programs.push(Instructions {
                program: info.name_as_str().unwrap_or("?").to_owned(),
                translated: info.size_translated().unwrap_or(0) / 8,
                verified: info.verified_instruction_count().unwrap_or(0),
            });
        }
    }
    let mut maps = BTreeMap::new();
    for info in aya::maps::loaded_maps() {
        let info = info?;
        if let Some(bytes) = map_bytes.get(&u64::from(info.id())) {
            maps.insert(info.name_as_str().unwrap_or("?").to_owned(), *bytes);
        }
    }
    drop(kernel);
    Ok(Footprint {
        programs,
        maps_total: maps.values().sum(),
        maps,
    })
}
