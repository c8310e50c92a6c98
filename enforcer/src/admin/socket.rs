//! What an agent has in its runtime directory: the lock, which says that the directory is its own, and the socket
//! that the commands use. Nobody else can take or block that: the directory and the socket are the agent's alone.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::{
        fs::{
            DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
        },
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use socket2::{Domain, SockAddr, Socket, Type};

use super::AdminError;

/// The socket in the runtime directory.
pub const SOCKET_FILE: &str = "admin.sock";
/// The file that a running agent has locked. Its content is the agent's process.
const LOCK_FILE: &str = "agent.lock";

/// Held by the agent that the runtime directory belongs to.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Makes the directory, if there is none, and takes it for this agent.
///
/// # Errors
/// It cannot be written, or another agent has it.
pub(super) fn lock(folder: &Path) -> Result<Lock, AdminError> {
    let path = folder.join(LOCK_FILE);
    let failed = |source| AdminError::RuntimeDir {
        path: path.display().to_string(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(failed)?;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut process = String::new();
            drop((&file).take(16).read_to_string(&mut process));
            return Err(AdminError::Shared {
                folder: folder.display().to_string(),
                process: process.trim().parse().ok(),
            });
        }
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(failed)?;
    Ok(Lock { _file: file })
}

/// The socket, for as long as it is the one that its path leads to.
#[derive(Debug)]
pub(super) struct Bound {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// Whose it is: the agent's user.
    pub(super) owner: u32,
}

/// Listens in the directory that is locked. What an agent that is gone has left is replaced.
///
/// # Errors
/// Something else is there, or the path is too long for a socket.
pub(super) fn listen(folder: &Path, _: &Lock) -> io::Result<(UnixListener, Bound)> {
    let path = folder.join(SOCKET_FILE);
    if let Ok(there) = fs::symlink_metadata(&path) {
        if !there.file_type().is_socket() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "it is there and no socket",
            ));
        }
        if answers(&path)? {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another process listens there; `ss -xlp` shows which",
            ));
        }
    }
    // Under another name first, so that nobody finds it before it is the agent's alone.
    let made = folder.join(format!("{SOCKET_FILE}.new"));
    match fs::remove_file(&made) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&made)?;
    fs::set_permissions(&made, Permissions::from_mode(0o600))?;
    fs::rename(&made, &path)?;
    listener.set_nonblocking(true)?;
    let metadata = fs::symlink_metadata(&path)?;
    let bound = Bound {
        device: metadata.dev(),
        inode: metadata.ino(),
        owner: metadata.uid(),
        path,
    };
    Ok((listener, bound))
}

/// Whether somebody listens on a socket.
fn answers(path: &Path) -> io::Result<bool> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // One who listens and does not accept would hold this up.
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        Err(error) => Err(error),
    }
}

impl Bound {
    /// Whether its path still leads to it.
    pub(super) fn is_there(&self) -> bool {
        fs::symlink_metadata(&self.path)
            .is_ok_and(|there| (there.dev(), there.ino()) == (self.device, self.inode))
    }
}

/// Takes its path away, if that still leads to it.
impl Drop for Bound {
    fn drop(&mut self) {
        if self.is_there() {
            drop(fs::remove_file(&self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m3_a_runtime_directory_belongs_to_one_agent() {
        let folder = tempfile::tempdir().unwrap();
        let first = lock(folder.path()).unwrap();
        let said = lock(folder.path()).unwrap_err().to_string();
        assert!(
            said.contains(&format!("process {}", std::process::id())),
            "{said}"
        );
        assert!(said.contains("runtimeDir"), "{said}");
        drop(first);
        lock(folder.path()).unwrap();
    }

    #[test]
    fn m3_the_socket_is_its_owners_and_replaces_a_dead_one_alone() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("made");
        let held = lock(&folder).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        let (listener, bound) = listen(&folder, &held).unwrap();
        let path = folder.join(SOCKET_FILE);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let error = listen(&folder, &held).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        let (_listener, second) = listen(&folder, &held).unwrap();
        assert!(second.is_there());
        assert!(!bound.is_there());
        drop(bound);
        assert!(path.exists(), "another's is left alone");
        drop(second);
        assert!(!path.exists());
        fs::create_dir(&path).unwrap();
        assert!(listen(&folder, &held).is_err());
    }
}
