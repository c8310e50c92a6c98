//! The controller's chores: each is done whatever becomes of the others, and what fails is counted and said, not in each
//! interval.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use prometheus::{IntCounterVec, Opts, Registry};

use enforcer_dataplane::KernelError;

/// How often is said that a chore fails.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// Runs chores.
pub struct Chores {
    failures: IntCounterVec,
    /// When it was said last that a chore fails. As many as there are chores.
    said: HashMap<&'static str, Instant>,
}

impl Chores {
    /// Registers what it counts.
    ///
    /// # Errors
    /// The name is taken.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let failures = IntCounterVec::new(
            Opts::new(
                "enforcer_chore_failures_total",
                "Failures of what the controller does in each interval, by chore.",
            ),
            &["chore"],
        )?;
        registry.register(Box::new(failures.clone()))?;
        Ok(Self {
            failures,
            said: HashMap::new(),
        })
    }

    /// Does a chore.
    pub fn run(&mut self, name: &'static str, chore: impl FnOnce() -> Result<(), KernelError>) {
        let Err(error) = chore() else { return };
        self.failures.with_label_values(&[name]).inc();
        let now = Instant::now();
        let due = self
            .said
            .get(name)
            .is_none_or(|said| now.saturating_duration_since(*said) >= SAID_EVERY);
        if due {
            self.said.insert(name, now);
            tracing::error!(chore = name, %error, "a chore of the controller has failed; the others are done");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chore_that_fails_keeps_no_other_from_being_done() {
        let registry = Registry::new();
        let mut chores = Chores::new(&registry).unwrap();
        let mut done = 0;
        for _ in 0..3 {
            chores.run("first", || Err(KernelError::Randomness));
            chores.run("second", || {
                done += 1;
                Ok(())
            });
        }
        assert_eq!(done, 3);
        assert_eq!(chores.failures.with_label_values(&["first"]).get(), 3);
        assert_eq!(chores.failures.with_label_values(&["second"]).get(), 0);
        assert_eq!(chores.said.len(), 1, "it is said once a minute");
    }
}
