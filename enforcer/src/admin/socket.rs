//! The socket that the commands use, in the runtime directory. Nobody else can take or block it: the directory and the
//! socket are the agent's alone.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::agent_lock::AgentLock;

/// The socket in the runtime directory.
pub const SOCKET_FILE: &str = "admin.sock";
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
pub(super) fn listen(folder: &Path, _: &AgentLock) -> io::Result<(UnixListener, Bound)> {
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
    fn m3_the_socket_is_its_owners_and_replaces_a_dead_one_alone() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("made");
        let held = AgentLock::take(&folder, "runtimeDir").unwrap();
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
