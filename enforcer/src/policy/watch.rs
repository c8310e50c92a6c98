//! Loads policies again whenever their files change.
//!
//! What is watched are directories, never files: editors write a new file and rename it over the old
//! one, and Kubernetes swaps the link `..data` beside the files. Whatever the event, everything is
//! read again, and only other contents than before are an outcome.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};

use super::{Loaded, Problems, files, load::load_files, yaml::place::Sink};

/// How long files must be left alone before they are read.
pub const DEBOUNCE: Duration = Duration::from_millis(200);

/// Files that never are left alone are read this often.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// What a change of the files has led to.
pub type Outcome = Result<Loaded, Problems>;

/// Why files cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// There is no such file or directory.
    #[error("{} does not exist: create it, or leave it out of `policies`", .0.display())]
    Missing(PathBuf),
    /// The kernel refuses.
    #[error("cannot watch {}: {source} (fs.inotify.max_user_watches may be used up)", .path.display())]
    Refused { path: PathBuf, source: notify::Error },
    /// No thread can be started.
    #[error("cannot start the thread that reads changed policies")]
    Thread(#[source] io::Error),
}

/// Watches until it is dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the watch"]
pub struct Watch {
    /// Tells the thread to end.
    stop: mpsc::Sender<Signal>,
    thread: Option<thread::JoinHandle<()>>,
}

/// What wakes the thread.
#[derive(Debug)]
enum Signal {
    Changed,
    Stop,
}

/// Watches `paths`, and sends what each change leads to. Contents with the digest `known` are not
/// sent; whatever else is there when the watch begins is, so that no change is missed in between.
///
/// The thread waits while `outcomes` is full, and ends when it is closed.
///
/// # Errors
/// Why the paths cannot be watched.
pub fn watch(
    paths: Vec<PathBuf>,
    known: Option<String>,
    outcomes: tokio::sync::mpsc::Sender<Outcome>,
) -> Result<Watch, WatchError> {
    if let Some(missing) = paths.iter().find(|path| !path.exists()) {
        return Err(WatchError::Missing(missing.clone()));
    }
    let (stop, signals) = mpsc::channel();
    let changed = stop.clone();
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Errors too (an overflow of the queue, say) mean that something may have changed. A closed
        // channel means that the watch is being dropped.
        if event.map_or(true, |event| is_change(event.kind)) {
            let _ = changed.send(Signal::Changed);
        }
    })
    .map_err(|source| WatchError::Refused {
        path: paths.first().cloned().unwrap_or_default(),
        source,
    })?;
    let mut directories = Directories {
        watcher,
        watched: BTreeSet::new(),
    };
    directories.follow(&paths)?;
    let reader = Reader {
        paths,
        known,
        outcomes,
        signals,
        directories,
        behind: false,
    };
    let thread = thread::Builder::new()
        .name("policy-watch".to_owned())
        .spawn(move || reader.run())
        .map_err(WatchError::Thread)?;
    Ok(Watch {
        stop,
        thread: Some(thread),
    })
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The thread may have ended already.
        let _ = self.stop.send(Signal::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that reads changed policies has panicked");
        }
    }
}

/// Reading files makes events too, which must not lead to reading again.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

/// The directories that are watched.
struct Directories {
    watcher: RecommendedWatcher,
    watched: BTreeSet<PathBuf>,
}

impl Directories {
    /// Watches where `paths` are now, and no longer where they were.
    fn follow(&mut self, paths: &[PathBuf]) -> Result<(), WatchError> {
        let wanted = directories_of(paths);
        for gone in self.watched.difference(&wanted) {
            // It fails for directories that no longer exist, whose watch has ended by itself.
            let _ = self.watcher.unwatch(gone);
        }
        // A directory that was removed and made again has the same name and no watch: so all of
        // them are watched anew.
        let mut refused = None;
        for directory in &wanted {
            if let Err(source) = self.watcher.watch(directory, RecursiveMode::NonRecursive) {
                let path = directory.clone();
                refused.get_or_insert(WatchError::Refused { path, source });
            }
        }
        self.watched = wanted;
        refused.map_or(Ok(()), Err)
    }
}

/// The directories in which a change can change what `paths` mean: the named ones, those around
/// what is named, and the same for what links lead to.
fn directories_of(paths: &[PathBuf]) -> BTreeSet<PathBuf> {
    let files = files::expand(paths).into_iter().filter_map(Result::ok);
    let mut directories = BTreeSet::new();
    for path in paths.iter().cloned().chain(files) {
        let target = path.canonicalize().ok();
        for path in [Some(path), target].into_iter().flatten() {
            if path.is_dir() {
                directories.insert(path.clone());
            }
            directories.insert(around(&path));
        }
    }
    directories.retain(|directory| directory.is_dir());
    directories
}

fn around(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        None => path.to_owned(),
    }
}

/// The thread's state.
struct Reader {
    paths: Vec<PathBuf>,
    /// The digest of what was read last.
    known: Option<String>,
    outcomes: tokio::sync::mpsc::Sender<Outcome>,
    signals: mpsc::Receiver<Signal>,
    directories: Directories,
    /// Files have changed while an outcome waited for room.
    behind: bool,
}

impl Reader {
    fn run(mut self) {
        while self.read() && (std::mem::take(&mut self.behind) || self.wait()) {}
    }

    /// Waits for a change, and then until there has been none for a while. `false`: stop.
    fn wait(&self) -> bool {
        if !matches!(self.signals.recv(), Ok(Signal::Changed)) {
            return false;
        }
        let latest = Instant::now() + LONGEST_WAIT;
        loop {
            let left = latest.saturating_duration_since(Instant::now());
            match self.signals.recv_timeout(DEBOUNCE.min(left)) {
                Ok(Signal::Changed) if !left.is_zero() => {}
                Ok(Signal::Changed) | Err(RecvTimeoutError::Timeout) => return true,
                Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// Reads everything, and sends it if it is new. `false`: nobody listens.
    fn read(&mut self) -> bool {
        // First the watches, so that what changes while the files are read is seen again.
        if let Err(error) = self.directories.follow(&self.paths) {
            tracing::warn!(%error, "changes of some policies may go unseen");
        }
        let sink = Sink::default();
        let files = files::read(&self.paths, &sink);
        if self.known.as_ref() == Some(&files.digest) {
            return !self.outcomes.is_closed();
        }
        self.known = Some(files.digest.clone());
        self.send(load_files(files, sink))
    }

    /// Hands an outcome over, waiting for room. `false`: nobody listens, or the watch ends.
    fn send(&mut self, outcome: Outcome) -> bool {
        use tokio::sync::mpsc::error::TrySendError;
        let mut outcome = outcome;
        loop {
            match self.outcomes.try_send(outcome) {
                Ok(()) => return true,
                Err(TrySendError::Closed(_)) => return false,
                Err(TrySendError::Full(back)) => outcome = back,
            }
            // A blocking send could not be stopped.
            match self.signals.recv_timeout(DEBOUNCE) {
                Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
                Ok(Signal::Changed) => self.behind = true,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}
