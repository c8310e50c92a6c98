//! Requests that wait for their turn instead of being refused.
//!
//! Each worker has a room of its own. Who waits for one limiter stands in one line: the first sleeps
//! until the limiter would admit it and is then charged as any other; who comes later goes behind,
//! even if the limiter would admit it at once. Between workers there is no order.
//!
//! Nobody fills the room: a line has half of it at most, a source and the prefixes around it the shares that
//! `Held::has_share` says. Who finds no place is refused at once.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::IpAddr,
    rc::Rc,
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout_at},
};

use super::{KeyParts, Outcome, Refusal, RuleLimits, Standing};
use crate::levels::Held;
use enforcer_model::Exceed;

/// How many requests may wait on a worker unless told otherwise.
pub const DEFAULT_CAPACITY: usize = 1024;

/// Where a worker's requests wait.
#[derive(Debug)]
pub struct WaitingRoom {
    capacity: usize,
    waiting: Cell<usize>,
    /// How many of them each source and the prefixes around it have.
    held: RefCell<Held>,
    /// By limiter key; lines that nobody stands in are gone.
    lines: RefCell<HashMap<u64, Rc<Line>>>,
}

#[derive(Debug)]
struct Line {
    /// One permit, handed on in the order of asking.
    turn: Semaphore,
    length: Cell<usize>,
}

/// Which line, for which limit and how long.
#[derive(Clone, Copy)]
struct Queue {
    limit: usize,
    key: u64,
    patience: Duration,
}

impl Default for WaitingRoom {
    fn default() -> Self {
        Self::new(DEFAULT_CAPACITY)
    }
}

impl WaitingRoom {
    /// A room for `capacity` requests.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            waiting: Cell::new(0),
            held: RefCell::default(),
            lines: RefCell::default(),
        }
    }

    /// How many requests wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.get()
    }

    /// Charges a request to the limits, as [`RuleLimits::check`], and lets it wait where the policy
    /// says so: for its turn over a limit with [`Exceed::Queue`], and behind a leaky bucket for as long
    /// as that delays it. Whoever would wait in vain is refused at once, as is everybody if the room is
    /// full (behind a leaky bucket, after having been charged). Dropping the future gives up the place.
    pub async fn admit(&self, limits: &RuleLimits, keys: &KeyParts<'_>, clock: impl Fn() -> u64) -> Outcome {
        let outcome = match self.line_ahead(limits, keys) {
            // On the heap: they are rare, and the request's future would be as large.
            Some(queue) => Box::pin(self.stand_in_line(queue, limits, keys, &clock)).await,
            None => self.check_or_stand(limits, keys, &clock).await,
        };
        match outcome {
            Outcome::Admitted { tightest, delay } if !delay.is_zero() => {
                Box::pin(self.wait_behind(tightest, delay, keys.source)).await
            }
            _ => outcome,
        }
    }

    async fn check_or_stand(
        &self,
        limits: &RuleLimits,
        keys: &KeyParts<'_>,
        clock: &impl Fn() -> u64,
    ) -> Outcome {
        let outcome = limits.check(keys, clock());
        let Outcome::Refused(refusal) = outcome else {
            return outcome;
        };
        match queue_of(refusal, limits, keys) {
            Some(queue) => Box::pin(self.stand_in_line(queue, limits, keys, clock)).await,
            None => outcome,
        }
    }

    async fn wait_behind(&self, tightest: Option<Standing>, delay: Duration, source: IpAddr) -> Outcome {
        let Some(_place) = self.take_place(source) else {
            // Without limits nothing delays.
            let limit = tightest.map_or(0, |standing| standing.limit);
            return Outcome::Refused(Refusal {
                limit,
                retry_after: delay,
            });
        };
        sleep(delay).await;
        Outcome::Admitted { tightest, delay }
    }

    /// A line in which others wait already for one of the request's limiters.
    fn line_ahead(&self, limits: &RuleLimits, keys: &KeyParts<'_>) -> Option<Queue> {
        let lines = self.lines.borrow();
        if lines.is_empty() {
            return None;
        }
        limits
            .queues(keys)
            .find(|(_, key, _)| lines.contains_key(key))
            .map(|(limit, key, patience)| Queue { limit, key, patience })
    }

    async fn stand_in_line(
        &self,
        queue: Queue,
        limits: &RuleLimits,
        keys: &KeyParts<'_>,
        clock: &impl Fn() -> u64,
    ) -> Outcome {
        let deadline = Instant::now() + queue.patience;
        let ahead = self
            .lines
            .borrow()
            .get(&queue.key)
            .map_or(0, |line| line.length.get());
        let in_vain = limits
            .turn(queue.limit, keys, clock(), ahead, queue.patience)
            .is_none();
        let refused = || {
            let late = Refusal {
                limit: queue.limit,
                retry_after: queue.patience,
            };
            Outcome::Refused(limits.refusal(keys, clock()).unwrap_or(late))
        };
        let place = (!in_vain).then(|| self.join(queue.key, keys.source)).flatten();
        let Some(place) = place else {
            return refused();
        };
        let turn = async {
            // The semaphore is never closed.
            let _turn = place.line.turn.acquire().await;
            loop {
                match limits.check(keys, clock()) {
                    Outcome::Refused(refusal)
                        if limits.exceed(refusal.limit) != Exceed::Reject
                            && Instant::now() + refusal.retry_after <= deadline =>
                    {
                        sleep(refusal.retry_after).await;
                    }
                    decided => return decided,
                }
            }
        };
        timeout_at(deadline, turn).await.unwrap_or_else(|_| refused())
    }

    fn take_place(&self, source: IpAddr) -> Option<Place<'_>> {
        let free = self.capacity.saturating_sub(self.waiting.get());
        let mut held = self.held.borrow_mut();
        if free == 0 || !held.has_share(source, free) {
            return None;
        }
        held.add(source);
        self.waiting.set(self.waiting.get() + 1);
        Some(Place { room: self, source })
    }

    fn join(&self, key: u64, source: IpAddr) -> Option<PlaceInLine<'_>> {
        // As many as wait in one line must be free, so that none fills the room.
        let free = self.capacity.saturating_sub(self.waiting.get());
        let length = self.lines.borrow().get(&key).map_or(0, |line| line.length.get());
        if length > 0 && length >= free {
            return None;
        }
        let place = self.take_place(source)?;
        let line = Rc::clone(self.lines.borrow_mut().entry(key).or_insert_with(|| {
            Rc::new(Line {
                turn: Semaphore::new(1),
                length: Cell::new(0),
            })
        }));
        line.length.set(line.length.get() + 1);
        Some(PlaceInLine { place, key, line })
    }
}

/// Over which limit, if any, a refused request may wait.
fn queue_of(refusal: Refusal, limits: &RuleLimits, keys: &KeyParts<'_>) -> Option<Queue> {
    limits
        .queues(keys)
        .find(|&(limit, _, patience)| limit == refusal.limit && refusal.retry_after <= patience)
        .map(|(limit, key, patience)| Queue { limit, key, patience })
}

struct Place<'a> {
    room: &'a WaitingRoom,
    source: IpAddr,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.room.waiting.set(self.room.waiting.get() - 1);
        self.room.held.borrow_mut().remove(self.source);
    }
}

struct PlaceInLine<'a> {
    place: Place<'a>,
    key: u64,
    line: Rc<Line>,
}

impl Drop for PlaceInLine<'_> {
    fn drop(&mut self) {
        self.line.length.set(self.line.length.get() - 1);
        if self.line.length.get() == 0 {
            self.place.room.lines.borrow_mut().remove(&self.key);
        }
    }
}
