//! The operator's revocations of proofs, kept in a file, so that they hold until their time whenever the agent starts.
//!
//! The file is written anew, whole, with each change: beside it first, then moved into its place, so that it is never
//! half of one. Bounds: as many entries as can be in force ([`MOST`]); a larger file is not read.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

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

/// The file, and whether it holds what is in force.
#[derive(Debug)]
pub struct Kept {
    folder: PathBuf,
    /// Why it does not. Held while the file is written, so that the last change is what it says.
    trouble: Mutex<Option<String>>,
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
            trouble: Mutex::default(),
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

    /// Writes what is in force.
    ///
    /// # Errors
    /// It is not kept, and why.
    pub fn save(&self, store: &RevocationStore) -> Result<(), String> {
        let mut trouble = self.state();
        let entries = store.list();
        let saved = write(&self.folder, &entries).map_err(|error| {
            let path = self.folder.join(FILE);
            format!("{} cannot be written: {error}", path.display())
        });
        *trouble = saved.clone().err();
        saved
    }

    /// Why the file does not hold what is, or was, in force. `None`: it does.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.state().clone()
    }

    fn lost(&self, why: String) {
        tracing::error!("{why}");
        *self.state() = Some(why);
    }

    fn state(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a file says and has not ended. `None`: there is no file.
fn read(path: &Path) -> io::Result<Option<Vec<Revocation>>> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
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
    use std::{os::unix::fs::PermissionsExt as _, time::Duration};

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

    #[test]
    fn what_is_revoked_is_so_after_a_restart_until_it_ends() {
        let folder = TempDir::new().unwrap();
        assert_eq!(restored(&folder), (vec![], None), "there is no file yet");
        let (kept, store) = (Kept::new(folder.path().join("state")), RevocationStore::default());
        let (long, short) = (entry("long", 600), entry("short", 1));
        for each in [&long, &short] {
            store.add(each.clone()).unwrap();
        }
        kept.save(&store).unwrap();
        let file = folder.path().join("state").join(FILE);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        std::thread::sleep(Duration::from_millis(1_100));
        assert_eq!(restored(&folder), (vec![long.clone()], None));
        store.remove(&long.what);
        kept.save(&store).unwrap();
        assert_eq!(restored(&folder), (vec![], None));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_kept_and_named() {
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
            kept.save(&store).unwrap();
            assert_eq!(kept.trouble(), None);
            assert_eq!(restored(&folder).0.len(), 1);
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("state"), "no folder").unwrap();
        let kept = Kept::new(folder.path().join("state"));
        let error = kept.save(&RevocationStore::default()).unwrap_err();
        assert!(error.contains("revocations.json cannot be written"), "{error}");
        assert_eq!(kept.trouble(), Some(error));
    }
}
