//! How many requests may be sent again: a share of those of the last ten seconds, and some for each
//! second, so that retries help where a little fails and add little where all does.

use std::cell::{Cell, RefCell};

use tokio::time::Instant;

/// Seconds that are looked back.
const WINDOW: usize = 10;

/// One worker's budget for one service.
#[derive(Debug)]
pub(super) struct Budget {
    start: Instant,
    /// The second, since the start, that is counted now.
    second: Cell<u64>,
    slots: RefCell<[Counts; WINDOW]>,
    total: Cell<Counts>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    requests: u64,
    retries: u64,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            start: now,
            second: Cell::new(0),
            slots: RefCell::default(),
            total: Cell::default(),
        }
    }

    /// Counts a request.
    pub(super) fn request(&self, now: Instant) {
        self.add(now, 1, 0);
    }

    /// Counts a request that is sent again, if `percent` of the requests and `at_least` admit one more.
    #[must_use]
    pub(super) fn retry(&self, now: Instant, percent: u8, at_least: u64) -> bool {
        self.add(now, 0, 0);
        let Counts { requests, retries } = self.total.get();
        let allowed = retries < at_least.saturating_add(requests * u64::from(percent) / 100);
        if allowed {
            self.add(now, 0, 1);
        }
        allowed
    }

    /// What `per_second` comes to in the whole window.
    #[must_use]
    pub(super) fn in_window(per_second: u32) -> u64 {
        u64::from(per_second) * WINDOW as u64
    }

    fn add(&self, now: Instant, requests: u64, retries: u64) {
        let second = now.saturating_duration_since(self.start).as_secs();
        let mut slots = self.slots.borrow_mut();
        let mut total = self.total.get();
        let passed = second.saturating_sub(self.second.get());
        for step in 1..=passed.min(WINDOW as u64) {
            let slot = &mut slots[place(self.second.get() + step)];
            total.requests -= slot.requests;
            total.retries -= slot.retries;
            *slot = Counts::default();
        }
        self.second.set(self.second.get() + passed);
        let slot = &mut slots[place(self.second.get())];
        for counts in [slot, &mut total] {
            counts.requests += requests;
            counts.retries += retries;
        }
        self.total.set(total);
    }
}

fn place(second: u64) -> usize {
    // Less than WINDOW.
    usize::try_from(second % WINDOW as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_share_and_a_minimum() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let budget = Budget::new(start);
        let spend = |now| (0..1000).filter(|_| budget.retry(now, 20, 10)).count();
        assert_eq!(spend(at(0)), 10, "the minimum alone");
        for _ in 0..100 {
            budget.request(at(1));
        }
        assert_eq!(spend(at(1)), 20, "a share of the requests");
        assert_eq!(spend(at(9)), 0);
        assert_eq!(spend(at(10)), 10, "the first second is forgotten");
        assert_eq!(spend(at(11)), 0, "so are the requests of the next");
        assert_eq!(spend(at(1000)), 10);
    }

    proptest! {
        /// As a list of all that happened says.
        #[test]
        fn as_remembered(steps in prop::collection::vec((0_u64..6, any::<bool>(), 1_usize..40), 1..60)) {
            let start = Instant::now();
            let budget = Budget::new(start);
            let mut second = 0;
            let mut log: Vec<(u64, bool)> = Vec::new();
            for (wait, again, times) in steps {
                second += wait;
                let now = start + Duration::from_secs(second);
                for _ in 0..times {
                    let recent = || log.iter().filter(|(at, _)| at + WINDOW as u64 > second);
                    let retries = recent().filter(|(_, again)| *again).count();
                    let requests = recent().count() - retries;
                    if again {
                        let admitted = budget.retry(now, 20, 10);
                        prop_assert_eq!(admitted, retries < 10 + requests / 5);
                        log.extend(admitted.then_some((second, true)));
                    } else {
                        budget.request(now);
                        log.push((second, false));
                    }
                }
            }
        }
    }
}
