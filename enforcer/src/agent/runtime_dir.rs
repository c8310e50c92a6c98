//! The runtime directory is one agent's: a second one would write its token over the first's, and share its connections.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// The file that a running agent holds a lock on.
const FILE: &str = "agent.lock";

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error(
        "another agent uses the runtime directory {}: give each agent a `runtimeDir` of its own, or stop the other one", .0.display()
    )]
    InUse(PathBuf),
    #[error(
        "the runtime directory {} cannot be used: {source}; set `runtimeDir` to a folder that the agent may write", .folder.display()
    )]
    Refused { folder: PathBuf, source: io::Error },
}

/// Held while the agent runs; the kernel takes it back when the process ends, however it does.
#[derive(Debug)]
#[must_use = "dropping it gives the directory up"]
pub struct Claim {
    _lock: File,
}

/// Takes the directory, which is made if it is not there. Comes before all that a second agent would do harm with.
///
/// # Errors
/// Another agent has it, or nothing can be written there.
pub fn claim(folder: &Path) -> Result<Claim, ClaimError> {
    let refused = |source| ClaimError::Refused {
        folder: folder.to_owned(),
        source,
    };
    fs::create_dir_all(folder).map_err(refused)?;
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(folder.join(FILE))
        .map_err(refused)?;
    match lock.try_lock() {
        Ok(()) => Ok(Claim { _lock: lock }),
        Err(TryLockError::WouldBlock) => Err(ClaimError::InUse(folder.to_owned())),
        Err(TryLockError::Error(source)) => Err(refused(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f9_a_runtime_directory_is_one_agents_until_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("run");
        let first = claim(&place).unwrap();
        let error = claim(&place).unwrap_err();
        assert!(error.to_string().contains("another agent uses"), "{error}");
        drop(first);
        drop(claim(&place).unwrap());
    }

    #[test]
    fn f9_a_directory_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = claim(&file.join("run")).unwrap_err();
        assert!(error.to_string().contains("set `runtimeDir`"), "{error}");
    }
}
