//! The operator's revocations of proofs.

use std::{io, path::Path, time::Instant};

use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::file::{self, File, VERSION};
use crate::admin::wire::Revokee;
use enforcer_gateway::revocation::{MOST, RevocationStore};
use enforcer_model::Revocation;

/// `revocations.json`, with as many entries as can be in force ([`MOST`]).
#[derive(Debug)]
pub struct KeptRevocations(File);

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

impl KeptRevocations {
    pub(super) fn new(folder: &Path) -> Self {
        Self(File::new(folder, "revocations"))
    }

    /// Puts what the file says in force, but for what has ended.
    pub fn restore(&self, store: &RevocationStore) {
        if let Some(entries) = self.0.restore(Document::entries) {
            let count = entries.len();
            store.restore(entries);
            tracing::info!(
                file = %self.0.path().display(),
                revocations = count,
                "the operator's revocations are in force again"
            );
        }
    }

    /// Has what is in force written, and waits for that as long as [`super::PATIENCE`].
    ///
    /// # Errors
    /// It is not kept, and why; or not yet.
    pub async fn save(&self, store: &RevocationStore) -> Result<(), String> {
        let store = store.clone();
        self.0.save(move || Document::of(&store.list())).await
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.0.trouble()
    }

    pub(super) fn stop(&self, deadline: Instant) -> bool {
        self.0.stop(deadline)
    }
}

impl Document {
    fn of(entries: &[Revocation]) -> io::Result<Self> {
        let revocations: io::Result<Vec<_>> = entries.iter().map(Entry::of).collect();
        Ok(Self {
            version: VERSION,
            revocations: revocations?,
        })
    }

    /// Those that have not ended.
    fn entries(self) -> io::Result<Vec<Revocation>> {
        file::check(self.version, self.revocations.len(), MOST)?;
        let entries: io::Result<Vec<_>> = self.revocations.into_iter().map(Entry::revocation).collect();
        let now = OffsetDateTime::now_utc();
        let mut entries = entries?;
        entries.retain(|entry| entry.until.is_none_or(|until| until > now));
        Ok(entries)
    }
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
    use std::{fs, os::unix::fs::PermissionsExt as _, thread, time::Duration};

    use tempfile::TempDir;

    use super::*;
    use crate::agent::kept::PATIENCE;
    use enforcer_model::Credential;

    fn entry(id: &str, seconds: i64) -> Revocation {
        Revocation {
            what: Credential::Key(id.into()),
            reason: Some("ticket 4711".into()),
            until: Some(OffsetDateTime::now_utc() + time::Duration::seconds(seconds)),
        }
    }

    fn new(folder: &TempDir) -> (KeptRevocations, RevocationStore) {
        let kept = KeptRevocations::new(&folder.path().join("state"));
        (kept, RevocationStore::default())
    }

    fn restored(folder: &TempDir) -> (Vec<Revocation>, Option<String>) {
        let (kept, store) = new(folder);
        kept.restore(&store);
        (store.list(), kept.trouble())
    }

    #[tokio::test]
    async fn what_is_revoked_is_so_after_a_restart_until_it_ends() {
        let folder = TempDir::new().unwrap();
        assert_eq!(restored(&folder), (vec![], None), "there is no file yet");
        let (kept, store) = new(&folder);
        let (long, short) = (entry("long", 600), entry("short", 1));
        for each in [&long, &short] {
            store.add(each.clone()).unwrap();
        }
        kept.save(&store).await.unwrap();
        let file = folder.path().join("state").join("revocations.json");
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
            fs::write(state.join("revocations.json"), text).unwrap();
            let (kept, store) = new(&folder);
            kept.restore(&store);
            let trouble = kept.trouble().unwrap();
            assert!(
                trouble.contains("state/revocations.json cannot be read"),
                "{trouble}"
            );
            store.add(entry("anew", 600)).unwrap();
            kept.save(&store).await.unwrap();
            assert_eq!(
                fs::read_to_string(state.join("revocations.unreadable.json")).unwrap(),
                text
            );
            assert_eq!(kept.trouble(), None);
            assert_eq!(restored(&folder).0.len(), 1);
        }
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_written_is_named() {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("state"), "no folder").unwrap();
        let (kept, store) = new(&folder);
        let error = kept.save(&store).await.unwrap_err();
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
            .arg(state.join("revocations.json"))
            .status()
            .unwrap();
        assert!(made.success());
        let (kept, store) = new(&folder);
        kept.restore(&store);
        let trouble = kept.trouble().unwrap();
        assert!(trouble.contains("not a regular file"), "{trouble}");
        kept.save(&store).await.unwrap();
        assert!(state.join("revocations.unreadable.json").exists());
        assert_eq!(kept.trouble(), None);
        assert!(kept.stop(Instant::now()));
    }

    /// The write waits for ever; who asks, who looks and who stops do not.
    #[tokio::test(start_paused = true)]
    async fn f1_a_disk_that_does_not_answer_keeps_nobody_waiting() {
        let kept = KeptRevocations::new(Path::new("/nowhere/state"));
        let release = kept.0.hang();
        let error = kept.save(&RevocationStore::default()).await.unwrap_err();
        assert!(error.contains("is not yet written"), "{error}");
        assert!(!kept.stop(Instant::now() + Duration::from_millis(20)));
        kept.0.has_waited(PATIENCE);
        assert_eq!(kept.trouble(), Some(error));
        drop(release);
    }
}
