//! Where the audit log goes, and how much of it there is.

use std::{num::NonZeroU32, path::PathBuf};

/// How the audit log is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditConfig {
    pub to: Destination,
    /// One of so many requests that were let through is recorded; 0: none.
    pub sample: u32,
    /// Records of requests in a second; what is beyond is counted alone.
    pub per_second: NonZeroU32,
}

/// Where lines are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    File {
        path: PathBuf,
        /// In bytes; a file that would grow beyond is put aside.
        max_size: u64,
        /// How many old files stay.
        keep: u32,
    },
    Stdout,
}
