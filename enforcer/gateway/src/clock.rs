//! The time as a connection's task and those of its requests see it: while such a task runs, until it has to wait, the
//! clock is read at most once. That takes some microseconds, and some tenths of a millisecond where signatures are
//! verified; whatever is waited for, the clock is read anew afterwards.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    time::{Duration, Instant as StdInstant},
};

use hyper::rt::{Sleep, Timer};
use hyper_util::rt::TokioTimer;
use tokio::time::Instant;

thread_local! {
    static READING: Cell<Reading> = const { Cell::new(Reading::EachTime) };
}

#[derive(Clone, Copy)]
enum Reading {
    EachTime,
    Once,
    Read(Instant),
}

/// While it lasts, [`now`] is one moment.
#[must_use]
pub(super) struct Moment(());

impl Moment {
    pub(super) fn begin() -> Self {
        READING.set(Reading::Once);
        Self(())
    }
}

impl Drop for Moment {
    fn drop(&mut self) {
        READING.set(Reading::EachTime);
    }
}

/// The time: where no [`Moment`] lasts, that of the clock.
pub(super) fn now() -> Instant {
    match READING.get() {
        Reading::EachTime => Instant::now(),
        Reading::Read(moment) => moment,
        Reading::Once => {
            let moment = Instant::now();
            READING.set(Reading::Read(moment));
            moment
        }
    }
}

/// `work`, each piece of which between two waits is done in one moment.
pub(super) async fn in_moments<F: Future>(work: F) -> F::Output {
    let mut work = pin!(work);
    poll_fn(|context| {
        let _moment = Moment::begin();
        work.as_mut().poll(context)
    })
    .await
}

/// The timer of HTTP/2, which looks at the clock for each frame, to know when a quiet peer is to be pinged.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameTimer;

impl Timer for FrameTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        TokioTimer::new().sleep(duration)
    }

    fn sleep_until(&self, deadline: StdInstant) -> Pin<Box<dyn Sleep>> {
        TokioTimer::new().sleep_until(deadline)
    }

    fn now(&self) -> StdInstant {
        now().into_std()
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, deadline: StdInstant) {
        TokioTimer::new().reset(sleep, deadline);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_moment_lasts_until_something_is_waited_for() {
        let step = Duration::from_millis(1);
        let work = async {
            let first = now();
            tokio::time::advance(step).await;
            let second = now();
            assert_eq!(second, first + step, "that was waited for");
            second
        };
        let last = in_moments(work).await;
        tokio::time::advance(step).await;
        assert_eq!(now(), last + step, "outside it is the clock's");
    }

    #[test]
    fn a_moment_is_one_time() {
        let moment = Moment::begin();
        let time = now();
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(now(), time);
        drop(moment);
        assert!(now() > time);
    }
}
