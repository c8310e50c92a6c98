//! What the running agent may do.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use crate::setting::Setting;

/// By their numbers in `linux/capability.h`: NET_BIND_SERVICE, NET_ADMIN, PERFMON, BPF.
const FOUR: u64 = 1 << 10 | 1 << 12 | 1 << 38 | 1 << 39;

#[test]
fn a_running_agent_has_four_capabilities_and_no_way_to_more() -> Result<()> {
    let Some(stage) = Setting::default().stage()? else {
        return Ok(());
    };
    let tasks = PathBuf::from(format!("/proc/{}/task", stage.agent().pid()));
    let mut threads = 0;
    for task in tasks.read_dir()? {
        let status = std::fs::read_to_string(task?.path().join("status"))?;
        let set = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let digits = line.with_context(|| format!("no {name} in:\n{status}"))?.trim();
            Ok(u64::from_str_radix(digits, 16)?)
        };
        for (name, expected) in [
            ("CapEff:", FOUR),
            ("CapPrm:", FOUR),
            ("CapBnd:", FOUR),
            ("CapInh:", 0),
            ("CapAmb:", 0),
        ] {
            let held = set(name)?;
            ensure!(
                held == expected,
                "{name} {held:x}, expected {expected:x}\n{status}"
            );
        }
        threads += 1;
    }
    ensure!(
        threads > 4,
        "{threads} threads: workers, the agent's own, the policies' watch"
    );
    Ok(())
}

#[test]
fn l11_a_running_agent_leaves_no_dump_of_its_memory() -> Result<()> {
    let Some(stage) = Setting::default().stage()? else {
        return Ok(());
    };
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", stage.agent().pid()))?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max core file size"));
    let values: Vec<_> = line
        .context("no limit of core files")?
        .split_whitespace()
        .collect();
    ensure!(values[..2] == ["0", "0"], "{limits}");
    Ok(())
}
