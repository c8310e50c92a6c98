//! What processes have had: time and memory, with their children's.

use std::fs;

use anyhow::{Context as _, Result};

/// A process and all that it has started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process(pub(super) u32);

impl Process {
    /// Processor time of all threads, in nanoseconds (`/proc/PID/task/TID/schedstat`).
    pub(super) fn time_ns(self) -> Result<u64> {
        let mut sum = 0;
        for process in self.family() {
            for entry in fs::read_dir(format!("/proc/{process}/task")).context("a proxy has ended")? {
                // A thread may end in between.
                let text = fs::read_to_string(entry?.path().join("schedstat")).unwrap_or_default();
                sum += text
                    .split_ascii_whitespace()
                    .next()
                    .and_then(|ns| ns.parse::<u64>().ok())
                    .unwrap_or(0);
            }
        }
        Ok(sum)
    }

    /// Resident memory in bytes; what processes share counts once (`Pss`).
    pub(super) fn memory(self) -> Result<u64> {
        let mut sum = 0;
        for process in self.family() {
            let text =
                fs::read_to_string(format!("/proc/{process}/smaps_rollup")).context("a proxy has ended")?;
            sum += text
                .lines()
                .find_map(|line| line.strip_prefix("Pss:"))
                .and_then(|rest| rest.trim().strip_suffix(" kB"))
                .and_then(|number| number.trim().parse::<u64>().ok())
                .context("the kernel does not say what a process has in memory")?
                * 1024;
        }
        Ok(sum)
    }

    /// Itself and all that it has started.
    pub(super) fn family(self) -> Vec<u32> {
        let mut all = vec![self.0];
        let mut at = 0;
        while let Some(&process) = all.get(at) {
            let children = format!("/proc/{process}/task/{process}/children");
            let text = fs::read_to_string(children).unwrap_or_default();
            all.extend(
                text.split_ascii_whitespace()
                    .filter_map(|pid| pid.parse::<u32>().ok()),
            );
            at += 1;
        }
        all
    }
}
