//! What an agent that is gone has left in force: its pins.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where BPF file systems are mounted.
const BPFFS: &str = "/sys/fs/bpf";
/// The most folders that are named.
const NAMED: usize = 8;

/// What the programs do that are still pinned. `None`: there are none, or nobody may look.
pub(super) fn in_force() -> Option<String> {
    let folders: Vec<String> = folders()
        .iter()
        .map(|folder| folder.display().to_string())
        .collect();
    (!folders.is_empty()).then(|| {
        format!(
            "The kernel programs pinned in {} are still in force: deny lists and denials hold, and limits lapse when \
             `kernel.deadMan` is over",
            folders.join(", ")
        )
    })
}

/// The folders of agents' pins.
pub(super) fn folders() -> Vec<PathBuf> {
    below(Path::new(BPFFS))
}

/// Each folder with one of a version's pins in it.
fn below(root: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let mut found: Vec<_> = folders.filter(|folder| holds_pins(folder)).take(NAMED).collect();
    found.sort();
    found
}

fn holds_pins(folder: &Path) -> bool {
    let versions = fs::read_dir(folder).into_iter().flatten().flatten();
    versions
        .filter(|entry| {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix('v'));
            number.is_some_and(|number| number.parse::<u32>().is_ok())
        })
        .any(|version| fs::read_dir(version.path()).is_ok_and(|mut pins| pins.next().is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_with_pins_are_found_and_others_are_not() {
        let root = tempfile::tempdir().unwrap();
        let made = |path: &str| fs::create_dir_all(root.path().join(path)).unwrap();
        made("edge/v7/CONTROL");
        made("empty/v7");
        made("cilium/globals/x");
        assert_eq!(below(root.path()), [root.path().join("edge")]);
    }
}
