//! What operators have ordered, kept in files, so that it holds until its time whenever the agent starts: after a restart, an
//! upgrade or a reboot, and with maps of another layout.

mod denials;
mod file;
mod revocations;

use std::{path::Path, time::Instant};

pub use self::{denials::KeptDenials, file::PATIENCE, revocations::KeptRevocations};

/// The files.
#[derive(Debug)]
pub struct Kept {
    pub revocations: KeptRevocations,
    pub denials: KeptDenials,
}

impl Kept {
    /// In `folder`, which is made when it is needed.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self {
            revocations: KeptRevocations::new(folder),
            denials: KeptDenials::new(folder),
        }
    }

    /// Why a file does not hold what is, or was, in force; by what the file is about. Waits for nothing.
    #[must_use]
    pub fn troubles(&self) -> Vec<(&'static str, String)> {
        let revocations = self.revocations.trouble().map(|why| ("revocations", why));
        let denials = self.denials.trouble().map(|why| ("denials", why));
        revocations.into_iter().chain(denials).collect()
    }

    /// Waits until what was asked for is written, until `deadline` at most. Whether it is.
    pub fn stop(&self, deadline: Instant) -> bool {
        let written = [self.revocations.stop(deadline), self.denials.stop(deadline)];
        !written.contains(&false)
    }
}
