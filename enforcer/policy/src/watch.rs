//! Loads policies again whenever their files change.
//!
//! What is watched are directories, never files: editors write a new file and rename it over the old
//! one, and Kubernetes swaps the link `..data` beside the files. Whatever the event, everything is
//! read again, and only other contents than before are an outcome.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use super::{Loaded, Problems, files, load::load_files, yaml::place::Sink};

mod directories;

use directories::Directories;

/// How long files must be left alone before they are read.
pub const DEBOUNCE: Duration = Duration::from_millis(200);

/// Files that never are left alone are read this often.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Files that cannot be read are read again after so long, then after twice that, and so on.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// How long the end of a watch waits for its thread.
const LONGEST_END: Duration = Duration::from_millis(500);

/// What a change of the files has led to.
pub type Outcome = Result<Loaded, Problems>;

/// Why files cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// There is no such file or directory.
    #[error("{} does not exist: create it, or leave it out of `policies`", .0.display())]
    Missing(PathBuf),
    /// The kernel refuses.
    #[error("cannot watch {}: {source}{}", .path.display(), hint(source))]
    Refused { path: PathBuf, source: notify::Error },
    /// No thread can be started.
    #[error("cannot start the thread that reads changed policies")]
    Thread(#[source] io::Error),
}

/// What to do about the errors that people meet.
fn hint(error: &notify::Error) -> &'static str {
    match &error.kind {
        // ENOSPC, as notify names it.
        notify::ErrorKind::MaxFilesWatch => "; raise the sysctl fs.inotify.max_user_watches",
        notify::ErrorKind::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            "; the agent has dropped its right to read the files of others: let its user read it (chown, chmod)"
        }
        _ => "",
    }
}

/// Watches until it is dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the watch"]
pub struct Watch {
    ended: Arc<AtomicBool>,
    /// All is to be read at once.
    asked: Arc<AtomicBool>,
    /// Wakes the thread. It holds one wake-up: one that waits is as good as many.
    wake: SyncSender<()>,
    thread: Option<thread::JoinHandle<()>>,
    disk: enforcer_supervision::Reader,
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
    let (wake, woken) = mpsc::sync_channel(1);
    let ended = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicBool::new(false));
    let changed = wake.clone();
    let directories = Directories::new(move || {
        // Full: a wake-up waits already. Closed: the watch is being dropped.
        let _ = changed.try_send(());
    });
    let mut directories = directories.map_err(|source| WatchError::Refused {
        path: paths.first().cloned().unwrap_or_default(),
        source,
    })?;
    directories.follow(&paths)?;
    let disk = enforcer_supervision::Reader::new("policies");
    let reader = Reader {
        disk: disk.clone(),
        paths,
        known,
        outcomes,
        woken,
        ended: Arc::clone(&ended),
        asked: Arc::clone(&asked),
        directories,
        behind: false,
        retry: None,
    };
    let thread = thread::Builder::new()
        .name("policy-watch".to_owned())
        .spawn(move || reader.run())
        .map_err(WatchError::Thread)?;
    Ok(Watch {
        ended,
        asked,
        wake,
        thread: Some(thread),
        disk,
    })
}

impl Watch {
    /// What says whether the disk of the policies answers.
    #[must_use]
    pub fn disk(&self) -> &enforcer_supervision::Reader {
        &self.disk
    }

    /// Has everything read at once, and sends it, even if it is the same as before. Does not wait for it.
    pub fn read_now(&self) {
        self.asked.store(true, Ordering::Release);
        // Full: it wakes anyhow. Closed: it has ended.
        let _ = self.wake.try_send(());
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        // Full: it wakes anyhow. Closed: it has ended already.
        let _ = self.wake.try_send(());
        let Some(thread) = self.thread.take() else { return };
        // A disk that does not answer keeps it, and nobody else.
        let deadline = Instant::now() + LONGEST_END;
        while !thread.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        if thread.is_finished() && thread.join().is_err() {
            tracing::error!("the thread that reads changed policies has panicked");
        }
    }
}

/// The thread's state.
struct Reader {
    disk: enforcer_supervision::Reader,
    paths: Vec<PathBuf>,
    /// The digest of what was read last.
    known: Option<String>,
    outcomes: tokio::sync::mpsc::Sender<Outcome>,
    woken: mpsc::Receiver<()>,
    ended: Arc<AtomicBool>,
    asked: Arc<AtomicBool>,
    directories: Directories,
    /// Files have changed while an outcome waited for room.
    behind: bool,
    /// After how long files that could not be read are read again.
    retry: Option<Duration>,
}

impl Reader {
    fn run(mut self) {
        while self.read() && (std::mem::take(&mut self.behind) || self.wait()) {}
    }

    /// Waits for a change, and then until there has been none for a while. `false`: the watch ends.
    fn wait(&self) -> bool {
        let woken = match self.retry {
            None => self.woken.recv().map_err(RecvTimeoutError::from),
            Some(retry) => self.woken.recv_timeout(retry),
        };
        match woken {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => return !self.has_ended(),
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        let latest = Instant::now() + LONGEST_WAIT;
        while !self.has_ended() {
            if self.asked.load(Ordering::Acquire) {
                return true;
            }
            let left = latest.saturating_duration_since(Instant::now());
            match self.woken.recv_timeout(DEBOUNCE.min(left)) {
                Ok(()) if !left.is_zero() => {}
                Ok(()) | Err(RecvTimeoutError::Timeout) => return !self.has_ended(),
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        false
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Reads everything, and sends it if it is new. `false`: nobody listens.
    fn read(&mut self) -> bool {
        let sink = Sink::default();
        let (asked, files) = self.disk.during(|| {
            // First the watches, so that what changes while the files are read is seen again.
            if let Err(error) = self.directories.follow(&self.paths) {
                tracing::warn!(%error, "changes of some policies may go unseen");
            }
            (
                self.asked.swap(false, Ordering::AcqRel),
                files::read(&self.paths, &sink),
            )
        });
        self.retry = files
            .unreadable
            .then(|| self.retry.map_or(FIRST_RETRY, |last| LONGEST_RETRY.min(last * 2)));
        if self.known.as_ref() == Some(&files.digest) && !asked {
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
            match self.woken.recv_timeout(DEBOUNCE) {
                Ok(()) => self.behind = true,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
            if self.has_ended() {
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_fit_what_went_wrong() {
        let said = |source: notify::Error| {
            let path = PathBuf::from("/p");
            WatchError::Refused { path, source }.to_string()
        };
        let io = |kind: io::ErrorKind| notify::Error::io(kind.into());
        assert!(said(notify::Error::new(notify::ErrorKind::MaxFilesWatch)).contains("max_user_watches"));
        assert!(said(io(io::ErrorKind::PermissionDenied)).contains("chown, chmod"));
        assert!(!said(io(io::ErrorKind::NotFound)).contains(';'));
    }
}
