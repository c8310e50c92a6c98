//! Policies: YAML documents become types that cannot be wrong.
//!
//! [`load()`] reads files and directories into a [`Loaded`] set, or into [`Problems`]: all of them at
//! once, each with its file, line, column and field. [`watch()`] does so again whenever the files change.
#![forbid(unsafe_code)]

pub mod cel;
pub mod files;
pub mod judge;
pub mod load;
pub mod problem;
pub mod raw;
pub mod schema;
pub mod secrets;
pub mod watch;
pub mod yaml;

use std::path::PathBuf;

use enforcer_model::PolicySet;
pub use load::{Loaded, load};
pub use problem::{Problem, Problems, Severity};
pub use watch::{Watch, WatchError, watch};

/// One state of the policies, as it is put into force.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Counts up from 1 within one run of the agent.
    pub number: u64,
    pub set: PolicySet,
    /// SHA-256 of the files' names and contents, in hexadecimal.
    pub digest: String,
    /// The files that the set was read from.
    pub files: Vec<PathBuf>,
}

impl Loaded {
    /// The set as the generation of that number.
    #[must_use]
    pub fn into_generation(self, number: u64) -> Generation {
        Generation {
            number,
            set: self.set,
            digest: self.digest,
            files: self.files,
        }
    }
}
