//! Where links and maps are pinned, so that programs go on without the agent and the next agent takes them
//! over: `docs/adr/0010-staying-up.md`.
//!
//! ```text
//! /sys/fs/bpf/enforcer/            locked by the agent that runs
//!   v3/                            the layout's version
//!     CONTROL SKETCH ...           maps
//!     xdp-native-4026531840-7 ...   links, by mode, network namespace and interface index
//! ```

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::{fs::DirBuilderExt as _, fs::MetadataExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    maps::{Map, MapData, MapInfo},
    pin::PinError,
    programs::links::{FdLink, PinnedLink},
};
use enforcer_common::layout::VERSION;
use enforcer_sys::bpf::is_bpffs;

use super::{KernelError, object};

/// The maps that are kept. Flows are not: the connections of an agent that has ended are closed.
pub const KEPT: [&str; 24] = [
    "CONTROL",
    "INTERFACES",
    "SEATS",
    "SERVICES",
    "POLICIES",
    "ACCESS",
    "PRESENCE",
    "BUDGETS",
    "HOLDERS",
    "RECENT",
    "RECENT_BITS",
    "RESERVES",
    "SHARED",
    "SKETCH",
    "COUNTERS",
    "TRIED",
    "PROVEN",
    "EGRESS_RULES",
    "EGRESS_LIMITS",
    "FLOW_MEMORY",
    "UDP_FLOWS",
    "TRIED_UDP_FLOWS",
    "REASONS",
    "NOTES",
];

/// Folders of all versions are named so, with the version behind it.
const VERSION_PREFIX: &str = "v";

/// Whether nobody but root and the agent's user can change what is pinned in `root`, whose descriptor is `lock`, or take
/// the lock.
fn check_root(root: &Path, lock: &File) -> Result<(), PinsError> {
    let user = rustix::process::geteuid().as_raw();
    let parent = root.parent().unwrap_or(root);
    let above = fs::metadata(parent).map_err(io_error(parent))?;
    if let Some(why) = foreign_because(&above, user, true) {
        let fix = format!("`chown root {0}` and `chmod 1755 {0}`", parent.display());
        let path = parent.to_owned();
        return Err(PinsError::Foreign { path, why, fix });
    }
    // By the descriptor, which stays that folder whatever becomes of the name.
    let held = lock.metadata().map_err(io_error(root))?;
    check_owner(root, root, &held)?;
    // Whoever can open the folder can lock it, and so keep the agent from starting.
    if held.uid() == user && held.mode() & 0o077 != 0 {
        let own = fs::Permissions::from_mode(0o700);
        if let Err(error) = lock.set_permissions(own) {
            tracing::warn!(folder = %root.display(), %error, "others can lock the folder of pins: set its mode to 0700");
        }
    }
    Ok(())
}

/// The same of one folder, of those in `root`.
fn check_owner(folder: &Path, root: &Path, data: &fs::Metadata) -> Result<(), PinsError> {
    let user = rustix::process::geteuid().as_raw();
    let Some(why) = foreign_because(data, user, false) else {
        return Ok(());
    };
    let root = root.display();
    let fix = format!("`rm -r {root}` and `install -d -o {user} -m 0700 {root}`");
    let path = folder.to_owned();
    Err(PinsError::Foreign { path, why, fix })
}

/// Why others than root and the agent's user could change what is in a folder. With `sticky`, everybody may make things
/// there, if nobody can move or remove another's: a BPF file system that was mounted by hand is such a folder.
fn foreign_because(folder: &fs::Metadata, user: u32, sticky: bool) -> Option<String> {
    const OTHERS_MAY_WRITE: u32 = 0o022;
    const STICKY: u32 = 0o1000;
    if !folder.is_dir() {
        return Some("is no folder".to_owned());
    }
    let owner = folder.uid();
    if owner != 0 && owner != user {
        return Some(format!(
            "belongs to user {owner}, not to root or the agent's user {user}"
        ));
    }
    let mode = folder.mode();
    let is_kept = sticky && mode & STICKY != 0;
    (mode & OTHERS_MAY_WRITE != 0 && !is_kept)
        .then(|| format!("may be written by others (mode {:04o})", mode & 0o7777))
}

/// Why nothing is pinned.
#[derive(Debug, thiserror::Error)]
pub enum PinsError {
    /// No BPF file system.
    #[error("{0} is on no BPF file system: mount one (`mount -t bpf bpf /sys/fs/bpf`)")]
    NoBpffs(PathBuf),
    /// Somebody else could change what is pinned.
    #[error("{path} {why}, so others could take the pins away or put their own there: as root, {fix}")]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Whose it is, or who may write there.
        why: String,
        /// What makes it right.
        fix: String,
    },
    /// Another agent has the pins.
    #[error("another agent uses the pins in {0}: stop it first, or give this one another `kernel.pins`")]
    InUse(PathBuf),
    /// The file system refuses.
    #[error("{path}: {error}; the folder must belong to the agent's user")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Why not.
        #[source]
        error: io::Error,
    },
    /// The kernel refuses to pin.
    #[error("{path} cannot be pinned: {error}")]
    Pin {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        error: PinError,
    },
}

/// The pins of this version, held by this process alone.
#[derive(Debug)]
pub struct Pins {
    root: PathBuf,
    folder: PathBuf,
    /// Locked as long as it is open.
    _lock: File,
}

impl Pins {
    /// Makes the folders if need be, and takes the lock.
    ///
    /// # Errors
    /// No BPF file system, no permission, or another agent has the lock.
    pub fn open(root: &Path) -> Result<Self, PinsError> {
        let parent = root.parent().unwrap_or(root);
        let first = if root.exists() { root } else { parent };
        if !is_bpffs(first) {
            return Err(PinsError::NoBpffs(root.to_owned()));
        }
        let folder = root.join(format!("{VERSION_PREFIX}{VERSION}"));
        let make = |folder: &Path| {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
            made.map_err(io_error(folder))
        };
        make(root)?;
        let lock = File::open(root).map_err(io_error(root))?;
        // Nothing is made in somebody else's folder.
        check_root(root, &lock)?;
        make(&folder)?;
        let own = fs::symlink_metadata(&folder).map_err(io_error(&folder))?;
        check_owner(&folder, root, &own)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                root: root.to_owned(),
                folder,
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(PinsError::InUse(root.to_owned())),
            Err(TryLockError::Error(error)) => Err(io_error(root)(error)),
        }
    }

    /// Where they are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where a map is pinned.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Why the maps that are pinned cannot be those of `wanted`. `Ok`: they can.
    ///
    /// # Errors
    /// What to tell the operator about why all begins anew.
    pub fn fit(&self, wanted: &Ebpf) -> Result<(), String> {
        let pinned = |name: &&str| self.map(name).exists();
        if !KEPT.iter().any(pinned) {
            return Err(match self.other_versions().first() {
                Some(other) => format!("another version is pinned: {}", other.display()),
                None => "nothing is pinned yet".to_owned(),
            });
        }
        for name in KEPT {
            if !self.map(name).exists() {
                return Err(format!("map {name} is not pinned, and others are"));
            }
            let found = MapInfo::from_pin(self.map(name)).map_err(|error| format!("map {name}: {error}"))?;
            let wanted = wanted.map(name).and_then(data).map(MapData::info);
            let Some(Ok(wanted)) = wanted else {
                return Err(format!("map {name} is not known"));
            };
            let (found, wanted) = (Shape::of(&found), Shape::of(&wanted));
            if found != wanted {
                return Err(format!(
                    "map {name} is pinned with {found}, and this agent needs {wanted}"
                ));
            }
        }
        Ok(())
    }

    /// Pins the maps of `ebpf` in place of what is pinned. The notes come last: with them a set counts as
    /// whole.
    ///
    /// # Errors
    /// The kernel or the file system refuses.
    pub fn replace_maps(&self, ebpf: &Ebpf) -> Result<(), PinsError> {
        for name in KEPT.iter().rev() {
            remove(&self.map(name))?;
        }
        for name in KEPT {
            let path = self.map(name);
            if let Some(map) = ebpf.map(name) {
                map.pin(&path).map_err(|error| PinsError::Pin { path, error })?;
            }
        }
        Ok(())
    }

    /// The link pinned under `name`, by this version, else by another.
    #[must_use]
    pub fn link(&self, name: &str) -> Option<PinnedLink> {
        let mut folders = self.other_versions();
        folders.insert(0, self.folder.clone());
        folders
            .iter()
            .find_map(|folder| PinnedLink::from_pin(folder.join(name)).ok())
    }

    /// Pins a link under `name`, unless it is there already. From then on it stays until [`Self::forget`].
    ///
    /// # Errors
    /// The kernel or the file system refuses; the link is gone then.
    pub fn keep(&self, name: &str, link: FdLink) -> Result<(), PinsError> {
        let path = self.folder.join(name);
        let there = PinnedLink::from_pin(&path).map(FdLink::from);
        if let (Ok(there), Ok(new)) = (there.and_then(|link| link.info()), link.info())
            && there.id() == new.id()
        {
            return Ok(());
        }
        remove(&path)?;
        match link.pin(&path) {
            Ok(_) => Ok(()),
            Err(error) => Err(PinsError::Pin { path, error }),
        }
    }

    /// Removes what is pinned under `name`, in all versions: a link that nobody else holds is detached.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn forget(&self, name: &str) -> Result<(), PinsError> {
        remove(&self.folder.join(name))?;
        self.other_versions()
            .iter()
            .try_for_each(|folder| remove(&folder.join(name)))
    }

    /// Removes everything but the maps and the links named by `links`: other versions, and links of
    /// interfaces that are gone or that no policy names.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn sweep(&self, links: &[String]) -> Result<(), PinsError> {
        for folder in self.other_versions() {
            remove_folder(&folder)?;
            tracing::info!(folder = %folder.display(), "another version's pins removed");
        }
        for name in names(&self.folder)? {
            if !KEPT.contains(&name.as_str()) && !links.contains(&name) {
                remove(&self.folder.join(&name))?;
                tracing::info!(
                    link = name,
                    "removed the pin of an interface that is no longer enforced"
                );
            }
        }
        Ok(())
    }

    /// Removes everything, the folder included: nothing stays attached by it. The clsact filters of `tc` on
    /// kernels without TCX are none of the pins.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn remove_all(&self) -> Result<(), PinsError> {
        for folder in self.other_versions() {
            remove_folder(&folder)?;
        }
        remove_folder(&self.folder)?;
        match fs::remove_dir(&self.root) {
            // A folder that the administrator made, or a mount: it is left where it is.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Folders of other layouts.
    fn other_versions(&self) -> Vec<PathBuf> {
        let mut folders: Vec<PathBuf> = names(&self.root)
            .unwrap_or_default()
            .into_iter()
            .filter(|name| {
                name.strip_prefix(VERSION_PREFIX)
                    .is_some_and(|version| version.parse::<u32>().is_ok_and(|version| version != VERSION))
            })
            .map(|name| self.root.join(name))
            .collect();
        folders.sort();
        folders
    }
}

/// What tells a map's layout.
#[derive(PartialEq, Eq)]
struct Shape {
    kind: String,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
}

impl Shape {
    fn of(info: &MapInfo) -> Self {
        Self {
            kind: info
                .map_type()
                .map_or_else(|error| error.to_string(), |kind| format!("{kind:?}")),
            key: info.key_size(),
            value: info.value_size(),
            entries: info.max_entries(),
            flags: info.map_flags(),
        }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            kind,
            key,
            value,
            entries,
            flags,
        } = self;
        write!(
            f,
            "{entries} entries of {key} and {value} bytes ({kind}, flags {flags})"
        )
    }
}

/// The pinned notes' map, for reading before anything is loaded.
///
/// # Errors
/// There is none, or it is something else.
pub fn pinned_array<V: aya::Pod>(pins: &Pins, name: &'static str) -> Result<object::Array<V>, KernelError> {
    let map = MapData::from_pin(pins.map(name)).map_err(KernelError::map(name))?;
    object::Array::try_from(Map::Array(map)).map_err(KernelError::map(name))
}

/// The network namespace that this process is in, by its inode.
#[must_use]
pub fn network_namespace() -> u64 {
    fs::metadata("/proc/self/ns/net").map_or(0, |namespace| namespace.ino())
}

fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data) | Map::HashMap(data) | Map::LpmTrie(data) | Map::PerCpuArray(data) => Some(data),
        _ => None,
    }
}

fn names(folder: &Path) -> Result<Vec<String>, PinsError> {
    let entries = fs::read_dir(folder).map_err(io_error(folder))?;
    entries
        .map(|entry| {
            Ok(entry
                .map_err(io_error(folder))?
                .file_name()
                .to_string_lossy()
                .into_owned())
        })
        .collect()
}

fn remove_folder(folder: &Path) -> Result<(), PinsError> {
    for name in names(folder)? {
        remove(&folder.join(name))?;
    }
    fs::remove_dir(folder).map_err(io_error(folder))
}

fn remove(path: &Path) -> Result<(), PinsError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(path)(error)),
        _ => Ok(()),
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> PinsError {
    let path = path.to_owned();
    move |error| PinsError::Io { path, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(root: &Path, folder: &Path) -> Result<(), PinsError> {
        check_root(root, &File::open(root).unwrap())?;
        check_owner(folder, root, &fs::metadata(folder).unwrap())
    }

    #[test]
    fn l10_a_folder_that_others_can_change_holds_no_pins() {
        let directory = tempfile::tempdir().unwrap();
        let (root, folder) = (
            directory.path().join("enforcer"),
            directory.path().join("enforcer/v1"),
        );
        fs::create_dir_all(&folder).unwrap();
        let user = rustix::process::geteuid().as_raw();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let check = || owners(&root, &folder).map_err(|error| error.to_string());
        mode(&folder, 0o700);
        for (above, own, wrong) in [
            (0o755, 0o700, None),
            (0o1777, 0o700, None),
            // Anybody could lock it; that is mended.
            (0o755, 0o755, None),
            (0o777, 0o700, Some(&directory.path().to_owned())),
            (0o775, 0o700, Some(&directory.path().to_owned())),
            (0o755, 0o777, Some(&root)),
            (0o755, 0o1777, Some(&root)),
            (0o755, 0o720, Some(&root)),
        ] {
            mode(directory.path(), above);
            mode(&root, own);
            match (check(), wrong) {
                (Ok(()), None) => assert_eq!(fs::metadata(&root).unwrap().mode() & 0o777, 0o700),
                (Err(error), Some(path)) => {
                    assert!(
                        error.starts_with(&format!("{} may be written by others", path.display())),
                        "{error}"
                    );
                    assert!(error.contains("as root, `"), "{error}");
                }
                (got, _) => panic!("{above:o} {own:o}: {got:?}"),
            }
        }
        mode(directory.path(), 0o755);
        mode(&root, 0o700);
        mode(&folder, 0o777);
        assert!(check().is_err_and(|error| error.contains("/enforcer/v1 may be written")));
        let data = fs::metadata(&root).unwrap();
        assert_eq!(foreign_because(&data, user, false), None);
        if user != 0 {
            let others = foreign_because(&data, user + 1, false);
            assert!(others.is_some_and(|why| why.contains("belongs to user")));
        }
    }
}
