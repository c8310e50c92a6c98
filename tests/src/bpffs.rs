//! A BPF file system of a scenario's own, so that agents pin where nobody else does.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::cleanup;

/// The file system. Dropping it unmounts it, which lets go of everything that is pinned there.
#[derive(Debug)]
pub struct Bpffs(TempDir);

impl Bpffs {
    /// Mounts one on a temporary folder.
    ///
    /// # Errors
    /// If this process is not root, or the kernel has none.
    pub fn mount() -> Result<Self> {
        let folder = TempDir::with_prefix("enforcer-bpf-").context("cannot make a temporary folder")?;
        cleanup::add_mount(folder.path());
        run(Command::new("mount")
            .args(["-t", "bpf", "bpf"])
            .arg(folder.path()))?;
        Ok(Self(folder))
    }

    /// Where an agent may pin.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        self.0.path().join("enforcer")
    }

    /// Names of what an agent has pinned, with their folders. Empty: not even its folder is there.
    ///
    /// # Errors
    /// If a folder cannot be read.
    pub fn pinned(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        // The kernel's own entries lie beside it.
        let mut folders = vec![self.pins()];
        if !self.pins().exists() {
            return Ok(found);
        }
        found.push("enforcer".to_owned());
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path.clone());
                }
                found.push(path.strip_prefix(self.0.path())?.display().to_string());
            }
        }
        found.sort();
        Ok(found)
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        if let Err(error) = cleanup::remove_mount(self.0.path()) {
            eprintln!("lab: {error:#}");
        }
    }
}

pub(crate) fn unmount(folder: &Path) -> Result<()> {
    run(Command::new("umount").arg(folder))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("{} did not start", command.get_program().display()))?;
    if !output.status.success() {
        bail!(
            "{}: {}",
            command.get_program().display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
