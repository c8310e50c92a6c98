//! A temporary folder for an agent: its configuration, policies, certificates and log.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::cleanup;

/// The configuration's file name.
pub const CONFIG: &str = "enforcer.yaml";
/// The folder that the configuration names for policies.
pub const POLICIES: &str = "policies";

/// The folder. Dropping it removes it.
#[derive(Debug)]
pub struct Workspace(TempDir);

impl Workspace {
    /// Makes the folder.
    ///
    /// # Errors
    /// If the system's folder for temporary files is not writable.
    pub fn create() -> Result<Self> {
        let folder = TempDir::with_prefix("enforcer-lab-").context("cannot make a temporary folder")?;
        cleanup::add_folder(folder.path());
        std::fs::create_dir(folder.path().join(POLICIES))?;
        Ok(Self(folder))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes the configuration.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_config(&self, yaml: &str) -> Result<PathBuf> {
        self.replace(Path::new(CONFIG), yaml)
    }

    /// Writes or replaces a policy file, at once: a reader sees the old or the new one.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_policy(&self, name: &str, yaml: &str) -> Result<PathBuf> {
        self.replace(&Path::new(POLICIES).join(name), yaml)
    }

    fn replace(&self, name: &Path, text: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        let next = self.path().join("next.tmp");
        std::fs::write(&next, text).with_context(|| format!("cannot write {}", next.display()))?;
        std::fs::rename(&next, &path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // The folder itself goes with its field.
        cleanup::forget_folder(self.path());
    }
}
