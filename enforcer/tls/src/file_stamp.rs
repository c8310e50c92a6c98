//! What the file system says of a file, by which a change is noticed without reading it.

use std::{
    fs::Metadata,
    os::unix::fs::MetadataExt as _,
    time::{Duration, SystemTime},
};

/// A file that was written so shortly ago may be written again without its times telling.
const UNSETTLED: Duration = Duration::from_secs(2);

/// Where a file lies, and when it was changed. Links are followed, so that a replaced link (as Kubernetes replaces
/// `..data`) is a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Whether the file changed so long ago that another change could not look the same.
    pub fn is_settled(&self, now: SystemTime) -> bool {
        let settled = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .saturating_sub(UNSETTLED);
        u64::try_from(self.changed.0).unwrap_or(0) < settled.as_secs()
    }
}

impl From<&Metadata> for Stamp {
    fn from(data: &Metadata) -> Self {
        Self {
            device: data.dev(),
            inode: data.ino(),
            size: data.len(),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_just_now_may_change_again_unnoticed() {
        let stamp = |changed| Stamp {
            device: 1,
            inode: 1,
            size: 1,
            modified: (changed, 0),
            changed: (changed, 0),
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        assert!(stamp(97).is_settled(now));
        assert!(!stamp(99).is_settled(now));
        assert!(!stamp(200).is_settled(now), "of a clock that was set back");
    }
}
