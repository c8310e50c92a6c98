//! What one worker has of a service, whichever policies are in force: how much of it is in use, and how
//! much may still be sent again.

use std::{cell::Cell, future::Future, rc::Rc};

use tokio::{sync::Notify, time::Instant};

use super::{Bound, UpstreamError, budget::Budget, gradient::Gradient};
use crate::counters::ServiceCells;

/// A service, as one worker counts it.
#[derive(Debug)]
pub(crate) struct LocalService {
    pub(crate) cells: ServiceCells,
    pub(super) budget: Budget,
    pub(super) gradient: Gradient,
    requests: Cell<u32>,
    pending: Cell<u32>,
    retries: Cell<u32>,
    /// A connection may be had.
    freed: Notify,
}

/// A place in one of a service's counts, until it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    service: Rc<LocalService>,
    bound: Bound,
}

impl LocalService {
    #[must_use]
    pub(crate) fn new(cells: ServiceCells) -> Rc<Self> {
        Rc::new(Self {
            cells,
            budget: Budget::new(Instant::now()),
            gradient: Gradient::default(),
            requests: Cell::new(0),
            pending: Cell::new(0),
            retries: Cell::new(0),
            freed: Notify::new(),
        })
    }

    /// A place, if fewer than `limit` are taken.
    ///
    /// # Errors
    /// That none is left, which is counted.
    pub(super) fn hold(self: &Rc<Self>, bound: Bound, limit: u32) -> Result<Held, UpstreamError> {
        let count = self.count(bound);
        if count.get() >= limit {
            return Err(self.saturated(bound));
        }
        count.set(count.get() + 1);
        Ok(Held {
            service: Rc::clone(self),
            bound,
        })
    }

    /// Counts that a bound was in the way.
    pub(super) fn saturated(&self, bound: Bound) -> UpstreamError {
        self.cells.overflow(bound);
        UpstreamError::Saturated(bound)
    }

    /// How many requests are under way.
    #[must_use]
    pub(super) fn under_way(&self) -> u32 {
        self.requests.get()
    }

    /// Whether requests wait for connections: those that come now are behind them.
    #[must_use]
    pub(super) fn has_waiting(&self) -> bool {
        self.pending.get() > 0
    }

    /// Waits until a connection may be had, in the order of waiting.
    pub(super) fn freed(&self) -> impl Future<Output = ()> + '_ {
        self.freed.notified()
    }

    /// A connection may be had.
    pub(super) fn free(&self) {
        if self.has_waiting() {
            self.freed.notify_one();
        }
    }

    /// Lets all look again: endpoints may have come back, which says no connection.
    pub(crate) fn stir(&self) {
        if self.has_waiting() {
            self.freed.notify_waiters();
        }
    }

    fn count(&self, bound: Bound) -> &Cell<u32> {
        match bound {
            Bound::Pending => &self.pending,
            Bound::Retries => &self.retries,
            _ => &self.requests,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let count = self.service.count(self.bound);
        count.set(count.get() - 1);
    }
}
