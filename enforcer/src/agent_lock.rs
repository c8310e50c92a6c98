//! Folders that belong to one agent at a time: a running agent has a file in them locked.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// The file that a running agent has locked. Its content is the agent's process.
const FILE: &str = "agent.lock";

/// Why a folder is not this agent's.
#[derive(Debug, thiserror::Error)]
pub enum AgentLockError {
    #[error("cannot write {path}: {source}; set `{field}` to a folder that the agent may write")]
    Io {
        path: PathBuf,
        field: &'static str,
        source: io::Error,
    },
    #[error(
        "{folder} belongs to another agent{}, which runs: give each agent a `{field}` of its own, or stop that one first",
        process.map(|process| format!(" (process {process})")).unwrap_or_default()
    )]
    Taken {
        folder: PathBuf,
        field: &'static str,
        process: Option<u32>,
    },
}

/// Held by the agent that a folder belongs to.
#[derive(Debug)]
pub struct AgentLock {
    file: File,
}

impl AgentLock {
    /// Makes the folder, if there is none, and takes it for this agent. `field` of the configuration names it. Where the
    /// file is there already, nothing is written: the disk may not answer.
    ///
    /// # Errors
    /// It cannot be written, or another agent has it.
    pub fn take(folder: &Path, field: &'static str) -> Result<Self, AgentLockError> {
        let path = folder.join(FILE);
        let file = open(folder, &path).and_then(|file| match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        });
        match file {
            Ok(Some(file)) => Ok(Self { file }),
            Ok(None) => Err(AgentLockError::Taken {
                folder: folder.to_owned(),
                field,
                process: fs::read_to_string(&path)
                    .ok()
                    .and_then(|text| text.trim().parse().ok()),
            }),
            Err(source) => Err(AgentLockError::Io { path, field, source }),
        }
    }

    /// Writes into the file whose it is, for those who find it taken.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn sign(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        writeln!(self.file, "{}", std::process::id())
    }

    /// Keeps the folder until the process has ended.
    pub fn keep(self) {
        std::mem::forget(self);
    }
}

fn open(folder: &Path, path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            options.create(true).mode(0o600).open(path)
        }
        opened => opened,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m3_a_folder_belongs_to_one_agent() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = AgentLock::take(folder.path(), "runtimeDir").unwrap();
        first.sign().unwrap();
        let said = AgentLock::take(folder.path(), "runtimeDir")
            .unwrap_err()
            .to_string();
        assert!(
            said.contains(&format!("process {}", std::process::id())),
            "{said}"
        );
        assert!(said.contains("runtimeDir"), "{said}");
        drop(first);
        AgentLock::take(folder.path(), "runtimeDir").unwrap();
    }
}
