//! What tests leave behind on the machine, which must be nothing.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

use crate::shell;

/// Where the kernel's pinned objects and named network namespaces are.
const PINS: &str = "/sys/fs/bpf";
const NAMESPACES: &str = "/run/netns";

/// How deep pins are looked for: the agent's own layout has fewer levels.
const MAX_DEPTH: usize = 6;

/// What could be left behind, one line each.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Traces(BTreeSet<String>);

impl Traces {
    /// What is there now.
    pub(crate) fn now() -> Self {
        let mut traces = BTreeSet::new();
        files("pin", Path::new(PINS), MAX_DEPTH, &mut traces);
        files("network namespace", Path::new(NAMESPACES), 1, &mut traces);
        files("interface", Path::new("/sys/class/net"), 1, &mut traces);
        mounts(&mut traces);
        attachments(&mut traces);
        processes(&shell::target(), &mut traces);
        Self(traces)
    }

    /// Compares with what is there now.
    ///
    /// # Errors
    /// Names everything that was not there before.
    pub(crate) fn check(&self) -> Result<()> {
        let now = Self::now();
        let left: Vec<_> = now.0.difference(&self.0).map(String::as_str).collect();
        if left.is_empty() {
            return Ok(());
        }
        bail!("the tests left behind: {}", left.join("; "))
    }
}

/// Every file below a folder, as far as it can be read.
fn files(kind: &str, folder: &Path, depth: usize, traces: &mut BTreeSet<String>) {
    let Some(deeper) = depth.checked_sub(1) else {
        return;
    };
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        traces.insert(format!("{kind} {}", path.display()));
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files(kind, &path, deeper, traces);
        }
    }
}

/// Mounts of the kernel's own file systems that a test may have made.
fn mounts(traces: &mut BTreeSet<String>) {
    for line in fs::read_to_string("/proc/self/mounts")
        .unwrap_or_default()
        .lines()
    {
        let mut fields = line.split(' ').skip(1);
        if let (Some(place), Some("bpf" | "nsfs" | "cgroup2")) = (fields.next(), fields.next()) {
            traces.insert(format!("mount {place}"));
        }
    }
}

/// Programs and queueing disciplines on the machine's own interfaces.
fn attachments(traces: &mut BTreeSet<String>) {
    let Some(tc) = shell::program("tc") else { return };
    for line in shell::output_of(tc, ["qdisc", "show"])
        .unwrap_or_default()
        .lines()
    {
        traces.insert(format!("queueing discipline `{}`", line.trim()));
    }
    let Some(ip) = shell::program("ip") else { return };
    for line in shell::output_of(ip, ["-oneline", "link", "show"])
        .unwrap_or_default()
        .lines()
    {
        let interface = line.split(' ').nth(1).unwrap_or_default();
        if line.contains(" prog/xdp ") || line.contains(" xdp ") || line.contains(" xdpgeneric ") {
            traces.insert(format!("XDP program on {interface}"));
        }
    }
}

/// Processes that run a program of this workspace, other than this one.
fn processes(target: &Path, traces: &mut BTreeSet<String>) {
    let target: PathBuf = target.canonicalize().unwrap_or_else(|_| target.to_owned());
    let Ok(entries) = fs::read_dir("/proc") else {
        return;
    };
    for entry in entries.flatten() {
        let Ok(program) = fs::read_link(entry.path().join("exe")) else {
            continue;
        };
        let own = entry.file_name().to_string_lossy() == std::process::id().to_string();
        if !own && program.starts_with(&target) {
            let id = entry.file_name();
            traces.insert(format!("process {} {}", id.display(), program.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_is_found_at_any_depth_that_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        fs::write(folder.path().join("a/b"), "").unwrap();
        let look = |depth| {
            let mut traces = BTreeSet::new();
            files("pin", folder.path(), depth, &mut traces);
            traces.len()
        };
        assert_eq!([look(0), look(1), look(2)], [0, 1, 2]);
    }

    #[test]
    fn what_was_there_before_is_no_residue_and_what_is_new_is_named() {
        // A process of our own stands for whatever a test might forget.
        let folder = tempfile::tempdir().unwrap();
        let sleeper = folder.path().join("sleeper");
        fs::copy("/bin/sleep", &sleeper).unwrap();
        let mut before = BTreeSet::new();
        processes(folder.path(), &mut before);
        let mut child = std::process::Command::new(&sleeper).arg("60").spawn().unwrap();
        let mut after = BTreeSet::new();
        processes(folder.path(), &mut after);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(before.len(), 0);
        assert_eq!(after.len(), 1);
        assert!(after.iter().all(|line| line.contains("sleeper")), "{after:?}");
    }
}
