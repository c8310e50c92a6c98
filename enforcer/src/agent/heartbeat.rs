//! The thread that keeps limits in force: it says at intervals that the agent is there, for as long as the controller
//! finishes its own.
//!
//! It takes one lock, which is held for changes of memory alone, writes no file, and looks at one atomic; so nothing that requests, disks or the log hold up makes
//! limits lapse. Whether the rest of the agent makes progress is the supervisor's business.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use enforcer_dataplane::Heartbeat;
use enforcer_supervision::Part;

/// The longest time between two beats.
const LONGEST_PERIOD: Duration = Duration::from_secs(1);

/// When the controller has finished an interval last; clones stand for the same.
#[derive(Clone, Debug)]
pub struct LastInterval {
    began: Instant,
    /// Milliseconds since the begin.
    finished: Arc<AtomicU64>,
}

impl LastInterval {
    /// The first begins now.
    #[must_use]
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            finished: Arc::default(),
        }
    }

    /// One is finished now.
    pub fn finished(&self) {
        self.finished.store(self.now(), Ordering::Release);
    }

    fn age(&self) -> Duration {
        Duration::from_millis(self.now().saturating_sub(self.finished.load(Ordering::Acquire)))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Beats until the process ends. `lapse`: how long limits hold without a beat.
///
/// # Errors
/// There is no thread to be had.
pub fn start(heartbeat: Heartbeat, lapse: Duration, last: LastInterval, part: Part) -> io::Result<()> {
    let run = move || {
        let mut failing = false;
        loop {
            part.beat();
            if last.age() < allowance(lapse) {
                let beat = heartbeat.beat();
                if let (Err(error), false) = (&beat, failing) {
                    tracing::error!(%error, "the kernel is not told that the agent is there");
                }
                failing = beat.is_err();
            }
            thread::sleep(period(lapse));
        }
    };
    thread::Builder::new()
        .name("heartbeat".to_owned())
        .spawn(run)
        .map(drop)
}

/// How often it beats.
fn period(lapse: Duration) -> Duration {
    LONGEST_PERIOD.min(lapse / 4)
}

/// How long the controller may take for an interval: two at least, since `lapse` is three at least. A large policy that is
/// being applied holds it up for seconds.
fn allowance(lapse: Duration) -> Duration {
    lapse * 2 / 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_for_less_than_twice_the_time_without_a_controller() {
        for seconds in [1, 3, 30, 86_400] {
            let lapse = Duration::from_secs(seconds);
            assert!(period(lapse) <= lapse / 4);
            assert!(allowance(lapse) + period(lapse) < lapse);
        }
    }

    #[test]
    fn the_age_of_the_last_interval_begins_anew_with_each() {
        let last = LastInterval::new();
        thread::sleep(Duration::from_millis(30));
        assert!(last.age() >= Duration::from_millis(29));
        let before = last.age();
        last.finished();
        assert!(last.age() < before);
    }
}
