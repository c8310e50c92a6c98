//! How requests ended at an endpoint, as one worker saw it.

use std::cell::Cell;

use super::endpoint::Suspicion;
use enforcer_model::Outliers;

/// How requests ended, as this worker saw it.
#[derive(Debug, Default)]
pub(super) struct SeenHere {
    /// 5xx and missing responses in a row.
    errors: Cell<u32>,
    /// Missing responses in a row.
    failures: Cell<u32>,
    /// Since the control thread was told.
    good: Cell<u64>,
    bad: Cell<u64>,
}

/// What a request's end says about its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Good,
    /// A 5xx.
    Error,
    /// No response.
    Failure,
}

impl SeenHere {
    /// Takes in an end. Says what that makes of the endpoint, once for each row of failures.
    pub(super) fn add(&self, end: End, law: &Outliers) -> Option<Suspicion> {
        if end == End::Good {
            self.good.set(self.good.get() + 1);
            self.errors.set(0);
            self.failures.set(0);
            return None;
        }
        self.bad.set(self.bad.get() + 1);
        self.errors.set(self.errors.get() + 1);
        let failures = if end == End::Failure {
            self.failures.get() + 1
        } else {
            0
        };
        self.failures.set(failures);
        let suspicion = if failures >= law.consecutive_failures.get() {
            Suspicion::Failures
        } else if self.errors.get() >= law.consecutive_5xx.get() {
            Suspicion::Errors
        } else {
            return None;
        };
        self.errors.set(0);
        self.failures.set(0);
        Some(suspicion)
    }

    /// Good and bad ends since the last time.
    pub(super) fn take(&self) -> (u64, u64) {
        (self.good.take(), self.bad.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_in_a_row_counts() {
        use End::{Error, Failure, Good};
        let law = Outliers::default();
        let seen = SeenHere::default();
        let ends = [
            Error, Failure, Failure, Error, Good, Error, Failure, Failure, Failure, Error,
        ];
        let said: Vec<_> = ends
            .map(|end| seen.add(end, &law))
            .into_iter()
            .flatten()
            .collect();
        assert_eq!(said, [Suspicion::Failures]);
        let said: Vec<_> = [Error; 4]
            .map(|end| seen.add(end, &law))
            .into_iter()
            .flatten()
            .collect();
        assert_eq!(said, [Suspicion::Errors], "five with the one before");
        assert_eq!(seen.take(), (1, 13));
        assert_eq!(seen.take(), (0, 0));
    }
}
