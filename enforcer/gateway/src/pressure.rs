//! Whether a worker has more to do than it gets done, and which requests it lets go then.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use super::deadlines::Deadlines;
use enforcer_model::Priority;

/// How often is looked how late the worker is.
const EVERY: Duration = Duration::from_millis(20);

/// Of so many looks in a row, the least late counts: a queue that does not empty, not a moment's work
/// (as CoDel, RFC 8289 section 3.1).
const LOOKS: usize = 5;

/// How late a worker may be before it refuses requests. `None`: it never does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shedding {
    /// Those of low priority.
    pub low: Option<Duration>,
    /// Those of normal priority too.
    pub normal: Option<Duration>,
}

/// How pressed one worker is.
#[derive(Debug, Default)]
pub(super) struct Pressure {
    shedding: Cell<Shedding>,
    /// How late it has been lately, at least.
    late: Cell<Duration>,
}

impl Pressure {
    pub(super) fn new(shedding: Shedding) -> Rc<Self> {
        Rc::new(Self {
            shedding: Cell::new(shedding),
            late: Cell::default(),
        })
    }

    /// Decides by this from now on.
    pub(super) fn set(&self, shedding: Shedding) {
        self.shedding.set(shedding);
    }

    /// Whether a request is refused because others come first.
    pub(super) fn sheds(&self, priority: Priority) -> bool {
        let tolerable = match priority {
            Priority::Low => self.shedding.get().low,
            Priority::Normal => self.shedding.get().normal,
            Priority::High => None,
        };
        tolerable.is_some_and(|tolerable| self.late.get() > tolerable)
    }

    /// How late the worker is.
    pub(super) fn late(&self) -> Duration {
        self.late.get()
    }

    /// Looks how late the worker is, and which `deadlines` are reached, for as long as it runs.
    pub(super) async fn watch(self: Rc<Self>, deadlines: Rc<Deadlines>) {
        let mut looks = [Duration::ZERO; LOOKS];
        for next in (0..LOOKS).cycle() {
            let due = Instant::now() + EVERY;
            tokio::time::sleep(EVERY).await;
            let now = Instant::now();
            looks[next] = now.saturating_duration_since(due);
            deadlines.look(now.into());
            self.late.set(looks.iter().min().copied().unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_last_is_refused_first() {
        let pressure = Pressure::new(Shedding {
            low: Some(Duration::from_millis(50)),
            normal: Some(Duration::from_millis(500)),
        });
        let shed = |late| {
            pressure.late.set(Duration::from_millis(late));
            [Priority::Low, Priority::Normal, Priority::High].map(|priority| pressure.sheds(priority))
        };
        assert_eq!(shed(50), [false; 3]);
        assert_eq!(shed(51), [true, false, false]);
        assert_eq!(shed(501), [true, true, false]);
        let pressure = Pressure::new(Shedding::default());
        pressure.late.set(Duration::from_secs(60));
        assert!(
            !pressure.sheds(Priority::Low),
            "unless it is asked for, nobody is"
        );
    }

    #[tokio::test]
    async fn a_worker_that_does_nothing_else_is_late_and_then_is_not() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let pressure = Pressure::new(Shedding::default());
                let watching = tokio::task::spawn_local(Rc::clone(&pressure).watch(Rc::default()));
                for _ in 0..2 * LOOKS {
                    // Longer than the pause between two looks, so that each is late.
                    std::thread::sleep(2 * EVERY);
                    tokio::task::yield_now().await;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                assert!(pressure.late() >= EVERY / 2, "{:?}", pressure.late());
                let calm = async {
                    while pressure.late() > EVERY / 4 {
                        tokio::time::sleep(EVERY).await;
                    }
                };
                tokio::time::timeout(Duration::from_secs(20), calm).await.unwrap();
                watching.abort();
            })
            .await;
    }
}
