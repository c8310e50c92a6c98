//! When a worker's requests have taken too long.
//!
//! A timer of the runtime costs each request two visits to a locked wheel, though next to none of them is ever due. Those
//! here cost a place in a list, which the worker looks over with each of its looks at how late it is. So they are late by
//! up to that time, which does not matter to waits that are much longer: see [`Deadlines::reached`].

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use super::clock;

/// Waits that are shorter than this have a timer of the runtime.
const LONG: Duration = Duration::from_secs(1);

/// The waits of a worker that have not ended; as many as requests are under way.
#[derive(Debug, Default)]
pub(super) struct Deadlines(RefCell<Places>);

#[derive(Debug, Default)]
struct Places {
    all: Vec<Place>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Place {
    due: Instant,
    /// Who waits. `None`: it is due, or nobody does.
    task: Option<Waker>,
}

/// A wait, which gives up its place when it is dropped.
struct Wait<'a> {
    deadlines: &'a Deadlines,
    due: Instant,
    place: Option<usize>,
}

impl Deadlines {
    /// Waits for `due`, which is `within` from when the waiting began: a little longer if that is long.
    pub(super) async fn reached(&self, due: Instant, within: Duration) {
        if within < LONG {
            // On the heap: it is large and rare, and the request's future would be as large.
            return Box::pin(sleep_until(due)).await;
        }
        let wait = Wait {
            deadlines: self,
            due,
            place: None,
        };
        wait.await;
    }

    /// Wakes those that are due at `now`.
    pub(super) fn look(&self, now: Instant) {
        for place in &mut self.0.borrow_mut().all {
            if place.due <= now
                && let Some(task) = place.task.take()
            {
                task.wake();
            }
        }
    }
}

impl Places {
    fn take(&mut self, place: Place) -> usize {
        match self.free.pop() {
            Some(index) => {
                self.all[index] = place;
                index
            }
            None => {
                self.all.push(place);
                self.all.len() - 1
            }
        }
    }
}

impl Future for Wait<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut places = self.deadlines.0.borrow_mut();
        match self.place {
            None if self.due <= clock::now() => return Poll::Ready(()),
            None => {
                let index = places.take(Place {
                    due: self.due,
                    task: Some(context.waker().clone()),
                });
                self.place = Some(index);
            }
            Some(index) => match &mut places.all[index].task {
                None => return Poll::Ready(()),
                Some(task) => task.clone_from(context.waker()),
            },
        }
        Poll::Pending
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if let Some(index) = self.place {
            let mut places = self.deadlines.0.borrow_mut();
            places.all[index].task = None;
            places.free.push(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_end_when_they_are_due_and_leave_their_places() {
        let deadlines = Deadlines::default();
        let start = Instant::now();
        let wait = |within| deadlines.reached(start + within, within);
        let (mut first, mut second) = (pin!(wait(LONG)), pin!(wait(LONG * 3)));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        deadlines.look(start + LONG - Duration::from_millis(1));
        assert!(first.as_mut().now_or_never().is_none());
        deadlines.look(start + LONG);
        assert!(first.as_mut().now_or_never().is_some());
        assert!(second.as_mut().now_or_never().is_none());
        for _ in 0..10 {
            // Each takes the place of the one before.
            assert!(wait(LONG * 2).now_or_never().is_none());
        }
        assert!(deadlines.0.borrow().all.len() <= 3);
        deadlines.look(start + LONG * 3);
        assert!(second.as_mut().now_or_never().is_some());
        tokio::time::advance(LONG).await;
        assert!(wait(LONG).now_or_never().is_some(), "it is due already");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_is_woken() {
        let deadlines = Deadlines::default();
        let start = Instant::now();
        let looks = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(20));
            loop {
                deadlines.look(ticks.tick().await);
            }
        };
        let waits = async {
            for within in [LONG * 2, LONG, LONG / 10] {
                let begins = Instant::now();
                deadlines.reached(begins + within, within).await;
                let late = begins.elapsed() - within;
                assert!(late <= Duration::from_millis(21), "{late:?}");
            }
        };
        tokio::select! {
            () = looks => {}
            () = waits => {}
        }
        assert!(start.elapsed() >= LONG * 3);
    }
}
