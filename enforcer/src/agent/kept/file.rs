//! One file in the state directory.
//!
//! It is written anew, whole, with each change: beside it first, then moved into its place, so that it is never half of one.
//! A file larger than [`LARGEST`] is neither read nor written.
//!
//! A thread of its own writes, since the disk may not answer. Who changes something waits for it for [`PATIENCE`] at most,
//! and what is wrong is read without waiting.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::watch;

/// The largest file that is read and written, in bytes.
const LARGEST: u64 = 256 << 20;

/// The only form of the documents so far.
pub(super) const VERSION: u32 = 1;

/// How long a change waits until it is written.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// How often is looked whether the thread has ended.
const POLL: Duration = Duration::from_millis(5);

/// The file, and whether it holds what is in force.
#[derive(Debug)]
pub(super) struct File {
    folder: PathBuf,
    /// Its name is this and `.json`; one that cannot be read is kept as this and `.unreadable.json`.
    name: &'static str,
    state: Arc<watch::Sender<Saving>>,
    pub(super) writer: OnceLock<Writer>,
}

/// How far the writing is. Held for as long as it takes to copy it, never while the disk is waited for.
#[derive(Clone, Debug, Default)]
struct Saving {
    /// Changes so far.
    asked: u64,
    /// Those of them that have been written, or could not be.
    done: u64,
    /// When the first of those that are not was made.
    since: Option<Instant>,
    /// Why the file does not hold what is in force.
    trouble: Option<String>,
    /// The file could not be read, and is still there: it is moved aside before another is written.
    unread: bool,
}

#[derive(Debug)]
pub(super) struct Writer {
    /// Holds one wake-up: one that waits is as good as many.
    wake: SyncSender<()>,
    thread: JoinHandle<()>,
}

impl File {
    /// `name` is what the file is about, in a word.
    pub(super) fn new(folder: &Path, name: &'static str) -> Self {
        Self {
            folder: folder.to_owned(),
            name,
            state: Arc::new(watch::Sender::new(Saving::default())),
            writer: OnceLock::new(),
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        path(&self.folder, self.name)
    }

    /// What the file says. `None`: there is none, or it cannot be read; then it is named in the log, stays where it is until
    /// another has to be written, and the agent goes on without it.
    pub(super) fn restore<D: DeserializeOwned, T>(&self, take: impl FnOnce(D) -> io::Result<T>) -> Option<T> {
        let path = self.path();
        match read(&path).and_then(|text| text.map(|text| take(serde_json::from_slice(&text)?)).transpose()) {
            Ok(found) => found,
            Err(error) => {
                let (name, path, aside) = (self.name, path.display(), aside(&self.folder, self.name));
                let why = format!(
                    "the operator's {name} in {path} cannot be read, and none of them is in force: {error}. Mend the file \
                     and restart the agent, or order anew what is to be in force: the file is then kept as {}",
                    aside.display()
                );
                tracing::error!("{why}");
                self.state.send_modify(|state| {
                    state.trouble = Some(why);
                    state.unread = true;
                });
                None
            }
        }
    }

    /// Has `document` written as it is from now on, and waits for that as long as [`PATIENCE`]. Each file has one kind of
    /// document: that of the first call.
    ///
    /// # Errors
    /// It is not kept, and why; or not yet.
    pub(super) async fn save<D: Serialize>(
        &self,
        document: impl Fn() -> io::Result<D> + Send + 'static,
    ) -> Result<(), String> {
        let mut mine = 0;
        self.state.send_modify(|state| {
            state.asked += 1;
            mine = state.asked;
            state.since.get_or_insert_with(Instant::now);
        });
        let mut changes = self.state.subscribe();
        self.wake(document)?;
        let done = changes.wait_for(|state| state.done >= mine);
        match tokio::time::timeout(PATIENCE, done).await {
            Ok(Ok(state)) => state.trouble.clone().map_or(Ok(()), Err),
            // The sender lives as long as this does.
            Ok(Err(_)) | Err(_) => Err(self.unanswered()),
        }
    }

    fn wake<D: Serialize>(
        &self,
        document: impl Fn() -> io::Result<D> + Send + 'static,
    ) -> Result<(), String> {
        let writer = match self.writer.get() {
            Some(writer) => writer,
            None => {
                let started = self
                    .start(document)
                    .map_err(|error| format!("no thread to write: {error}"))?;
                // Where two are started, the other ends: nobody wakes it.
                self.writer.get_or_init(|| started)
            }
        };
        match writer.wake.try_send(()) {
            Ok(()) | Err(TrySendError::Full(())) => Ok(()),
            Err(TrySendError::Disconnected(())) => {
                Err(format!("the thread that writes {} has ended", self.name))
            }
        }
    }

    fn start<D: Serialize>(
        &self,
        document: impl Fn() -> io::Result<D> + Send + 'static,
    ) -> io::Result<Writer> {
        let (wake, woken) = sync_channel(1);
        let (folder, name, state) = (self.folder.clone(), self.name, Arc::clone(&self.state));
        let unread = Arc::clone(&self.state);
        let save = move || {
            let text = serde_json::to_vec(&document()?)?;
            if unread.borrow().unread {
                fs::rename(path(&folder, name), aside(&folder, name))?;
                unread.send_modify(|state| state.unread = false);
            }
            write(&folder, name, &text)
        };
        let place = self.path();
        let thread = thread::Builder::new()
            .name(format!("keep-{}", self.name))
            .spawn(move || write_each(&place, save, &state, &woken))?;
        Ok(Writer { wake, thread })
    }

    /// Why the file does not hold what is, or was, in force. `None`: it does. Waits for nothing.
    pub(super) fn trouble(&self) -> Option<String> {
        let state = self.state.borrow().clone();
        let waits = state.since.is_some_and(|since| since.elapsed() >= PATIENCE);
        state.trouble.or_else(|| waits.then(|| self.unanswered()))
    }

    /// Waits until what was asked for is written, until `deadline` at most. Whether it is.
    pub(super) fn stop(&self, deadline: Instant) -> bool {
        let written = || {
            let state = self.state.borrow();
            state.done == state.asked
        };
        let ended = || self.writer.get().is_none_or(|writer| writer.thread.is_finished());
        while !written() && !ended() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        written()
    }

    fn unanswered(&self) -> String {
        format!(
            "{} is not yet written: the disk does not answer",
            self.path().display()
        )
    }
}

/// Whether a document has the form and the size of those that are written.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(version: u32, entries: usize, most: usize) -> io::Result<()> {
    if version != VERSION {
        return Err(io::Error::other(format!(
            "it is of version {version}, not {VERSION}"
        )));
    }
    if entries > most {
        return Err(io::Error::other(format!("it has more than {most} entries")));
    }
    Ok(())
}

fn path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.json"))
}

fn aside(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.unreadable.json"))
}

/// The thread: writes what is in force whenever it is woken, until nobody can wake it.
fn write_each(
    place: &Path,
    save: impl Fn() -> io::Result<()>,
    state: &watch::Sender<Saving>,
    woken: &Receiver<()>,
) {
    while woken.recv().is_ok() {
        let asked = state.borrow().asked;
        let saved = save().map_err(|error| format!("{} cannot be written: {error}", place.display()));
        state.send_modify(|state| {
            state.done = asked;
            state.since = (state.asked > asked).then(Instant::now);
            state.trouble = saved.err();
        });
    }
}

/// `None`: there is no file.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    // Opening a FIFO would wait for a writer.
    let opened = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut text = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(io::Error::other(format!("it is larger than {LARGEST} bytes")));
    }
    Ok(Some(text))
}

fn write(folder: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    if text.len() as u64 > LARGEST {
        return Err(io::Error::other(format!(
            "it would be larger than {LARGEST} bytes"
        )));
    }
    fs::create_dir_all(folder)?;
    let beside = folder.join(format!("{name}.json.new"));
    // One that was there may have another mode, or be a link to somewhere else.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&beside, path(folder, name))?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
impl File {
    /// In place of the thread: one that hangs until what is returned goes.
    pub(super) fn hang(&self) -> SyncSender<()> {
        let (wake, woken) = sync_channel(1);
        let (release, hung) = sync_channel::<()>(0);
        let thread = thread::spawn(move || {
            let _ = (woken, hung.recv());
        });
        self.writer.set(Writer { wake, thread }).unwrap();
        release
    }

    /// As if its last change had waited for so long.
    pub(super) fn has_waited(&self, long: Duration) {
        self.state
            .send_modify(|state| state.since = Instant::now().checked_sub(long));
    }
}
