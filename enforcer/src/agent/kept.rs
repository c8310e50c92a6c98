//! The operator's revocations of proofs, kept in a file, so that they hold until their time whenever the agent starts.
//!
//! The file is written anew, whole, with each change: beside it first, then moved into its place, so that it is never
//! half of one. Bounds: as many entries as can be in force ([`MOST`]); a larger file is not read.
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

use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::watch;

use crate::{
    admin::wire::Revokee,
    gateway::revocation::{MOST, RevocationStore},
    policy::model::Revocation,
};

/// The file's name in the state directory.
const FILE: &str = "revocations.json";
/// What cannot be read is kept under this name.
const UNREADABLE: &str = "revocations.unreadable.json";
/// The largest file that is read and written, in bytes.
const LARGEST: u64 = 256 << 20;
/// The only form so far.
const VERSION: u32 = 1;

/// How long a change waits until it is written.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// How often is looked whether the thread has ended.
const POLL: Duration = Duration::from_millis(5);

/// The file, and whether it holds what is in force.
#[derive(Debug)]
pub struct Kept {
    folder: PathBuf,
    state: Arc<watch::Sender<Saving>>,
    writer: OnceLock<Writer>,
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
}

#[derive(Debug)]
struct Writer {
    /// Holds one wake-up: one that waits is as good as many.
    wake: SyncSender<()>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    revocations: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    whom: Revokee,
    reason: Option<String>,
    /// RFC 3339.
    until: String,
}

impl Kept {
    /// In `folder`, which is made when it is needed.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            state: Arc::new(watch::Sender::new(Saving::default())),
            writer: OnceLock::new(),
        }
    }

    /// Puts what the file says in force, but for what has ended. A file that cannot be read is moved aside, named in
    /// the log, and the agent goes on without it.
    pub fn restore(&self, store: &RevocationStore) {
        let path = self.folder.join(FILE);
        match read(&path) {
            Ok(None) => {}
            Ok(Some(entries)) => {
                let count = entries.len();
                store.restore(entries);
                tracing::info!(file = %path.display(), revocations = count, "the operator's revocations are in force again");
            }
            Err(error) => {
                let aside = self.folder.join(UNREADABLE);
                let kept = match fs::rename(&path, &aside) {
                    Ok(()) => format!("it is kept as {}", aside.display()),
                    Err(error) => format!("it cannot be moved aside: {error}"),
                };
                self.lost(format!(
                    "the operator's revocations in {} cannot be read, and none of them is in force: {error}; {kept}. \
                     Revoke anew what is to stay revoked",
                    path.display()
                ));
            }
        }
    }

    /// Has what is in force written, and waits for that as long as [`PATIENCE`].
    ///
    /// # Errors
    /// It is not kept, and why; or not yet.
    pub async fn save(&self, store: &RevocationStore) -> Result<(), String> {
        let mut mine = 0;
        self.state.send_modify(|state| {
            state.asked += 1;
            mine = state.asked;
            state.since.get_or_insert_with(Instant::now);
        });
        let mut changes = self.state.subscribe();
        self.wake(store)?;
        let done = changes.wait_for(|state| state.done >= mine);
        match tokio::time::timeout(PATIENCE, done).await {
            Ok(Ok(state)) => state.trouble.clone().map_or(Ok(()), Err),
            // The sender lives as long as this does.
            Ok(Err(_)) | Err(_) => Err(self.unanswered()),
        }
    }

    fn wake(&self, store: &RevocationStore) -> Result<(), String> {
        let writer = match self.writer.get() {
            Some(writer) => writer,
            None => {
                let started = self
                    .start(store)
                    .map_err(|error| format!("no thread to write: {error}"))?;
                // Where two are started, the other ends: nobody wakes it.
                self.writer.get_or_init(|| started)
            }
        };
        match writer.wake.try_send(()) {
            Ok(()) | Err(TrySendError::Full(())) => Ok(()),
            Err(TrySendError::Disconnected(())) => {
                Err("the thread that writes revocations has ended".to_owned())
            }
        }
    }

    fn start(&self, store: &RevocationStore) -> io::Result<Writer> {
        let (wake, woken) = sync_channel(1);
        let (folder, state, store) = (self.folder.clone(), Arc::clone(&self.state), store.clone());
        let thread = thread::Builder::new()
            .name("revocations".to_owned())
            .spawn(move || write_each(&folder, &store, &state, &woken))?;
        Ok(Writer { wake, thread })
    }

    /// Why the file does not hold what is, or was, in force. `None`: it does. Waits for nothing.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let state = self.state.borrow().clone();
        let waits = state.since.is_some_and(|since| since.elapsed() >= PATIENCE);
        state.trouble.or_else(|| waits.then(|| self.unanswered()))
    }

    /// Waits until what was asked for is written, until `deadline` at most. Whether it is.
    pub fn stop(&self, deadline: Instant) -> bool {
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
        let path = self.folder.join(FILE);
        format!("{} is not yet written: the disk does not answer", path.display())
    }

    fn lost(&self, why: String) {
        tracing::error!("{why}");
        self.state.send_modify(|state| state.trouble = Some(why));
    }
}

/// The thread: writes what is in force whenever it is woken, until nobody can wake it.
fn write_each(folder: &Path, store: &RevocationStore, state: &watch::Sender<Saving>, woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        let asked = state.borrow().asked;
        let saved = write(folder, &store.list()).map_err(|error| {
            let path = folder.join(FILE);
            format!("{} cannot be written: {error}", path.display())
        });
        state.send_modify(|state| {
            state.done = asked;
            state.since = (state.asked > asked).then(Instant::now);
            state.trouble = saved.err();
        });
    }
}

/// What a file says and has not ended. `None`: there is no file.
fn read(path: &Path) -> io::Result<Option<Vec<Revocation>>> {
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
    let document: Document = serde_json::from_slice(&text)?;
    if document.version != VERSION {
        let version = document.version;
        return Err(io::Error::other(format!(
            "it is of version {version}, not {VERSION}"
        )));
    }
    if document.revocations.len() > MOST {
        return Err(io::Error::other(format!("it has more than {MOST} entries")));
    }
    let entries: io::Result<Vec<_>> = document.revocations.into_iter().map(Entry::revocation).collect();
    let now = OffsetDateTime::now_utc();
    let mut entries = entries?;
    entries.retain(|entry| entry.until.is_none_or(|until| until > now));
    Ok(Some(entries))
}

fn write(folder: &Path, entries: &[Revocation]) -> io::Result<()> {
    let revocations: io::Result<Vec<_>> = entries.iter().map(Entry::of).collect();
    let document = Document {
        version: VERSION,
        revocations: revocations?,
    };
    let text = serde_json::to_vec(&document)?;
    if text.len() as u64 > LARGEST {
        return Err(io::Error::other(format!(
            "it would be larger than {LARGEST} bytes"
        )));
    }
    fs::create_dir_all(folder)?;
    let beside = folder.join(format!("{FILE}.new"));
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
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&beside, folder.join(FILE))?;
    fs::File::open(folder)?.sync_all()
}

impl Entry {
    fn of(entry: &Revocation) -> io::Result<Self> {
        let until = entry
            .until
            .ok_or_else(|| io::Error::other("an entry without an end"))?;
        Ok(Self {
            whom: Revokee::from(&entry.what),
            reason: entry.reason.as_deref().map(str::to_owned),
            until: until.format(&Rfc3339).map_err(io::Error::other)?,
        })
    }

    fn revocation(self) -> io::Result<Revocation> {
        let what = self.whom.credential().map_err(io::Error::other)?;
        Ok(Revocation {
            what: what.ok_or_else(|| io::Error::other("an entry about no proof"))?,
            reason: self.reason.map(Into::into),
            until: Some(OffsetDateTime::parse(&self.until, &Rfc3339).map_err(io::Error::other)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tempfile::TempDir;

    use super::*;
    use crate::policy::model::Credential;

    fn entry(id: &str, seconds: i64) -> Revocation {
        Revocation {
            what: Credential::Key(id.into()),
            reason: Some("ticket 4711".into()),
            until: Some(OffsetDateTime::now_utc() + time::Duration::seconds(seconds)),
        }
    }

    fn restored(folder: &TempDir) -> (Vec<Revocation>, Option<String>) {
        let (kept, store) = (Kept::new(folder.path().join("state")), RevocationStore::default());
        kept.restore(&store);
        (store.list(), kept.trouble())
    }

    #[tokio::test]
    async fn what_is_revoked_is_so_after_a_restart_until_it_ends() {
        let folder = TempDir::new().unwrap();
        assert_eq!(restored(&folder), (vec![], None), "there is no file yet");
        let (kept, store) = (Kept::new(folder.path().join("state")), RevocationStore::default());
        let (long, short) = (entry("long", 600), entry("short", 1));
        for each in [&long, &short] {
            store.add(each.clone()).unwrap();
        }
        kept.save(&store).await.unwrap();
        let file = folder.path().join("state").join(FILE);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        thread::sleep(Duration::from_millis(1_100));
        assert_eq!(restored(&folder), (vec![long.clone()], None));
        store.remove(&long.what);
        kept.save(&store).await.unwrap();
        assert_eq!(restored(&folder), (vec![], None));
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_is_kept_and_named() {
        for text in [
            "",
            "{",
            r#"{"version":2,"revocations":[]}"#,
            r#"{"version":1,"revocations":[{"whom":{"apiKey":"a"},"reason":null,"until":"tomorrow"}]}"#,
            r#"{"version":1,"revocations":[{"whom":{"apiKey":""},"reason":null,"until":"2099-01-01T00:00:00Z"}]}"#,
        ] {
            let folder = TempDir::new().unwrap();
            let state = folder.path().join("state");
            fs::create_dir(&state).unwrap();
            fs::write(state.join(FILE), text).unwrap();
            let (kept, store) = (Kept::new(state.clone()), RevocationStore::default());
            kept.restore(&store);
            let trouble = kept.trouble().unwrap();
            assert!(
                trouble.contains("state/revocations.json cannot be read"),
                "{trouble}"
            );
            assert_eq!(fs::read_to_string(state.join(UNREADABLE)).unwrap(), text);
            store.add(entry("anew", 600)).unwrap();
            kept.save(&store).await.unwrap();
            assert_eq!(kept.trouble(), None);
            assert_eq!(restored(&folder).0.len(), 1);
        }
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_written_is_named() {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("state"), "no folder").unwrap();
        let kept = Kept::new(folder.path().join("state"));
        let error = kept.save(&RevocationStore::default()).await.unwrap_err();
        assert!(error.contains("revocations.json cannot be written"), "{error}");
        assert_eq!(kept.trouble(), Some(error));
    }

    /// A FIFO stands for a disk that does not answer: opening it waits for ever.
    #[tokio::test]
    async fn f9_a_fifo_is_moved_aside_and_a_start_does_not_wait() {
        let folder = TempDir::new().unwrap();
        let state = folder.path().join("state");
        fs::create_dir(&state).unwrap();
        let made = std::process::Command::new("mkfifo")
            .arg(state.join(FILE))
            .status()
            .unwrap();
        assert!(made.success());
        let (kept, store) = (Kept::new(state.clone()), RevocationStore::default());
        kept.restore(&store);
        let trouble = kept.trouble().unwrap();
        assert!(trouble.contains("not a regular file"), "{trouble}");
        assert!(state.join(UNREADABLE).exists());
        kept.save(&store).await.unwrap();
        assert_eq!(kept.trouble(), None);
        assert!(kept.stop(Instant::now()));
    }

    /// The write waits for ever; who asks, who looks and who stops do not.
    #[tokio::test(start_paused = true)]
    async fn f1_a_disk_that_does_not_answer_keeps_nobody_waiting() {
        let kept = Kept::new(PathBuf::from("/nowhere/state"));
        // In place of the thread: one that hangs.
        let (wake, woken) = sync_channel(1);
        let (release, hung) = sync_channel::<()>(0);
        let thread = thread::spawn(move || {
            let _ = (woken, hung.recv());
        });
        kept.writer.set(Writer { wake, thread }).unwrap();
        let error = kept.save(&RevocationStore::default()).await.unwrap_err();
        assert!(error.contains("is not yet written"), "{error}");
        assert!(!kept.stop(Instant::now() + Duration::from_millis(20)));
        kept.state
            .send_modify(|state| state.since = Instant::now().checked_sub(PATIENCE));
        assert_eq!(kept.trouble(), Some(error));
        drop(release);
    }
}
