//! How workers learn that endpoints came or went, and how the control thread learns that one fails.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// Shared by all endpoints. Workers read it at each request; it is written when an endpoint's state changes.
#[derive(Debug)]
pub(crate) struct Board {
    /// Counts the changes of which endpoints may be used.
    epoch: AtomicU64,
    alarm: Notify,
    start: Instant,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            epoch: AtomicU64::new(0),
            alarm: Notify::new(),
            start: Instant::now(),
        }
    }
}

impl Board {
    /// Other than before when what was taken from the endpoints is out of date.
    #[must_use]
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(super) fn changed(&self) {
        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// A worker suspects an endpoint.
    pub(super) fn raise_alarm(&self) {
        self.alarm.notify_one();
    }

    /// Waits until a worker suspects an endpoint.
    pub(crate) async fn alarm(&self) {
        self.alarm.notified().await;
    }

    /// Milliseconds since the process began; never 0.
    #[must_use]
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    /// How long ago a time of [`Self::now`] was.
    #[must_use]
    pub(super) fn since(&self, then: u64) -> Duration {
        Duration::from_millis(self.now().saturating_sub(then))
    }
}
