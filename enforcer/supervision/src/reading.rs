//! Threads that only read files. A disk that does not answer keeps them, and nothing else: restarting the agent would not
//! help, so they are named and the agent is called healthy all the same.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use super::{PATIENCE, faults};

/// A thread that reads; clones stand for the same.
#[derive(Clone, Debug)]
pub struct Reader(Arc<State>);

#[derive(Debug)]
pub struct State {
    what: &'static str,
    began: Instant,
    /// Since when it reads, in milliseconds and one after `began`. 0: it does not.
    since: AtomicU64,
}

impl Reader {
    /// Reads `what`, in words.
    #[must_use]
    pub fn new(what: &'static str) -> Self {
        Self(Arc::new(State {
            what,
            began: Instant::now(),
            since: AtomicU64::new(0),
        }))
    }

    /// Notes that `read` is under way while it is. Also the place where tests have the disk not answer: see [`faults`].
    pub fn during<T>(&self, read: impl FnOnce() -> T) -> T {
        self.0.since.store(self.0.now(), Ordering::Release);
        faults::reading(self.0.what);
        let result = read();
        self.0.since.store(0, Ordering::Release);
        result
    }

    pub fn state(&self) -> Arc<State> {
        Arc::clone(&self.0)
    }
}

impl State {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .saturating_add(1)
    }

    pub fn what(&self) -> &'static str {
        self.what
    }

    /// Whether it has read for too long.
    pub fn waits(&self) -> bool {
        let since = self.since.load(Ordering::Acquire);
        since != 0 && u128::from(self.now().saturating_sub(since)) >= PATIENCE.as_millis()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reading_that_takes_long_is_named() {
        let reader = Reader::new("policies");
        assert!(!reader.state().waits());
        reader.during(|| assert!(!reader.state().waits()));
        let state = reader.state();
        state.since.store(1, Ordering::Release);
        assert!(!state.waits());
        let long = Instant::now().checked_sub(2 * PATIENCE).unwrap();
        let old = State {
            what: "policies",
            began: long,
            since: AtomicU64::new(1),
        };
        assert!(old.waits());
    }
}
