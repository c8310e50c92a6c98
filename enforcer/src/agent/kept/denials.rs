//! The operator's denials.
//!
//! Where an agent finds the maps of the one before, the denials in them are in force, and nothing is read. Otherwise (after a
//! reboot, with another layout of maps, without pins) those of the file come into force again, with what is left of their time.

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::file::{self, File, VERSION};
use crate::admin::wire::Action;
use enforcer_dataplane::{Denial, DeniedBy, MAX_DENIALS};
use enforcer_sys::clock::monotonic_ns;

/// `denials.json`, with as many entries as can be in force ([`MAX_DENIALS`]).
#[derive(Debug)]
pub struct KeptDenials(File);

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    denials: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    prefix: IpNet,
    reason: String,
    action: Action,
    /// RFC 3339.
    until: String,
}

/// What is to be in force again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ordered {
    pub prefix: IpNet,
    pub reason: String,
    pub action: Action,
    /// What is left of its time.
    pub lasts: Duration,
}

impl KeptDenials {
    pub(super) fn new(folder: &Path) -> Self {
        Self(File::new(folder, "denials"))
    }

    /// What the file says, but for what has ended.
    pub fn restore(&self) -> Vec<Ordered> {
        self.0.restore(Document::ordered).unwrap_or_default()
    }

    /// Has what `list` gives written, and waits for that as long as [`super::PATIENCE`].
    ///
    /// # Errors
    /// It is not kept, and why; or not yet.
    pub async fn save(&self, list: impl Fn() -> Vec<(IpNet, Denial)> + Send + 'static) -> Result<(), String> {
        self.0.save(move || Document::of(&list())).await
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.0.trouble()
    }

    pub(super) fn stop(&self, deadline: Instant) -> bool {
        self.0.stop(deadline)
    }
}

impl Document {
    /// Automatic denials last for minutes, and are not kept.
    fn of(list: &[(IpNet, Denial)]) -> io::Result<Self> {
        let (now, now_ns) = (OffsetDateTime::now_utc(), monotonic_ns());
        let operators = list.iter().filter(|(_, denial)| denial.by == DeniedBy::Operator);
        let entries: io::Result<Vec<_>> = operators
            .map(|(prefix, denial)| {
                let left = Duration::from_nanos(denial.expires_ns.saturating_sub(now_ns));
                Ok(Entry {
                    prefix: *prefix,
                    reason: denial.reason.as_ref().to_owned(),
                    action: denial.action.into(),
                    until: (now + left).format(&Rfc3339).map_err(io::Error::other)?,
                })
            })
            .collect();
        Ok(Self {
            version: VERSION,
            denials: entries?,
        })
    }

    fn ordered(self) -> io::Result<Vec<Ordered>> {
        file::check(self.version, self.denials.len(), MAX_DENIALS)?;
        let now = OffsetDateTime::now_utc();
        let entries: io::Result<Vec<_>> = self
            .denials
            .into_iter()
            .map(|entry| {
                let until = OffsetDateTime::parse(&entry.until, &Rfc3339).map_err(io::Error::other)?;
                Ok(Ordered {
                    prefix: entry.prefix.trunc(),
                    reason: entry.reason,
                    action: entry.action,
                    lasts: Duration::try_from(until - now).unwrap_or_default(),
                })
            })
            .collect();
        let mut entries = entries?;
        entries.retain(|entry| !entry.lasts.is_zero());
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use enforcer_model;

    fn denied(prefix: &str, by: DeniedBy, seconds: u64) -> (IpNet, Denial) {
        let denial = Denial {
            by,
            reason: "ticket 4711".into(),
            expires_ns: monotonic_ns() + seconds * 1_000_000_000,
            action: enforcer_model::Action::Reset,
        };
        (prefix.parse().unwrap(), denial)
    }

    #[tokio::test]
    async fn an_operators_denials_come_back_with_what_is_left_of_their_time() {
        let folder = TempDir::new().unwrap();
        let kept = KeptDenials::new(folder.path());
        assert_eq!(kept.restore(), [], "there is no file yet");
        let list = vec![
            denied("192.0.2.0/24", DeniedBy::Operator, 600),
            denied("198.51.100.7/32", DeniedBy::Authentication, 600),
            denied("2001:db8::/32", DeniedBy::Operator, 1),
        ];
        kept.save(move || list.clone()).await.unwrap();
        std::thread::sleep(Duration::from_millis(1_100));
        let [ordered]: [Ordered; 1] = KeptDenials::new(folder.path()).restore().try_into().unwrap();
        assert_eq!(ordered.prefix.to_string(), "192.0.2.0/24");
        assert_eq!(
            (ordered.reason.as_str(), ordered.action),
            ("ticket 4711", Action::Reset)
        );
        let left = ordered.lasts.as_secs();
        assert!((590..600).contains(&left), "{left}");
        assert_eq!(kept.trouble(), None);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_is_kept_and_named() {
        for text in [
            "{",
            r#"{"version":2,"denials":[]}"#,
            r#"{"version":1,"denials":[{"prefix":"192.0.2.0/24","reason":"a","action":"drop","until":"soon"}]}"#,
        ] {
            let folder = TempDir::new().unwrap();
            fs::write(folder.path().join("denials.json"), text).unwrap();
            let kept = KeptDenials::new(folder.path());
            assert_eq!(kept.restore(), []);
            let trouble = kept.trouble().unwrap();
            assert!(trouble.contains("denials.json cannot be read"), "{trouble}");
            // It stays as it is until an operator orders something.
            assert_eq!(
                fs::read_to_string(folder.path().join("denials.json")).unwrap(),
                text
            );
            kept.save(Vec::new).await.unwrap();
            assert_eq!(kept.trouble(), None);
            assert_eq!(
                fs::read_to_string(folder.path().join("denials.unreadable.json")).unwrap(),
                text
            );
        }
    }
}
