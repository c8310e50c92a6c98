//! How many requests a service can have at once, found out by its latency: the gradient of Envoy's adaptive
//! concurrency and of Netflix's concurrency-limits.
//!
//! What a service answers in while it is not pressed is its baseline. After each window of samples
//!
//! `limit = limit · min(1, 1.25 · baseline / latency) + sqrt(limit)`
//!
//! so that the limit grows while latency stays near the baseline, and settles where the root's worth of requests
//! waits at the service. As those would in time be taken for its nature, the limit is halved for one window twice
//! a minute, and that window's latency is the new baseline.

use std::{cell::RefCell, time::Duration};

use tokio::time::Instant;

/// How long a window is at least.
const WINDOW: Duration = Duration::from_millis(100);

/// How many samples it has at least.
const SAMPLES: u32 = 10;

/// How many the window has that a baseline is taken from, unless it takes longer than [`LONGEST_PROBE`].
const PROBED: u32 = 100;
const LONGEST_PROBE: Duration = Duration::from_secs(2);

/// How long a baseline holds, give or take a tenth, so that nodes do not all look at once.
const BASELINE_LASTS: Duration = Duration::from_secs(30);

/// How much above the baseline is still none of the requests' doing.
const TOLERANCE: f64 = 1.25;

/// The least that a window leaves of a limit.
const LEAST_GRADIENT: f64 = 0.5;

/// Between which a limit may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) floor: u32,
    pub(super) ceiling: u32,
}

/// One worker's limit for one service.
#[derive(Debug, Default)]
pub(super) struct Gradient(RefCell<Option<State>>);

#[derive(Debug)]
struct State {
    limit: f64,
    /// In seconds.
    baseline: Option<f64>,
    window: Window,
    phase: Phase,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Until the baseline is looked for again.
    Following(Instant),
    /// This window's latency becomes the baseline.
    Probing,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    samples: u32,
    /// In seconds.
    sum: f64,
    /// The most requests that were under way.
    peak: u32,
}

impl Gradient {
    /// How many requests may be under way. It begins with the floor, for the first baseline.
    pub(super) fn limit(&self, range: Range, now: Instant) -> u32 {
        let mut state = self.0.borrow_mut();
        let state = state.get_or_insert_with(|| State::new(range, now));
        let limit = match state.phase {
            Phase::Following(_) => state.limit,
            Phase::Probing => state.limit / 2.0,
        };
        // The range may have changed since the limit was set.
        range.clamp(limit) as u32
    }

    /// A request that was sent at `sent` was answered, while as many were under way as `under_way`.
    pub(super) fn answered(&self, range: Range, sent: Instant, now: Instant, under_way: u32) {
        let mut state = self.0.borrow_mut();
        let state = state.get_or_insert_with(|| State::new(range, now));
        // One of before says nothing about the limit of now.
        if sent < state.window.began {
            return;
        }
        let window = &mut state.window;
        window.samples += 1;
        window.sum += (now - sent).as_secs_f64();
        window.peak = window.peak.max(under_way);
        let lasted = now - window.began;
        let enough = match state.phase {
            Phase::Probing if lasted < LONGEST_PROBE => PROBED,
            _ => SAMPLES,
        };
        if window.samples >= enough && lasted >= WINDOW {
            state.close(range, now);
        }
    }
}

impl Range {
    fn clamp(self, limit: f64) -> f64 {
        limit.clamp(self.floor.into(), self.ceiling.max(self.floor).into())
    }
}

impl State {
    fn new(range: Range, now: Instant) -> Self {
        Self {
            limit: range.clamp(2.0 * f64::from(range.floor)),
            baseline: None,
            window: Window::new(now),
            phase: Phase::Probing,
        }
    }

    fn close(&mut self, range: Range, now: Instant) {
        let window = std::mem::replace(&mut self.window, Window::new(now));
        // Never zero, which nothing can be divided by.
        let latency = (window.sum / f64::from(window.samples)).max(1e-6);
        match self.phase {
            Phase::Probing => {
                self.baseline = Some(latency);
                self.phase = Phase::Following(next_look(now));
            }
            Phase::Following(look) => {
                // Not the least of all windows: that of many noisy ones is far below what is usual.
                let baseline = *self.baseline.get_or_insert(latency);
                let gradient = (TOLERANCE * baseline / latency).clamp(LEAST_GRADIENT, 1.0);
                let next = self.limit * gradient + self.limit.sqrt();
                // A limit that nobody comes near to is not proved by low latency.
                if next < self.limit || 2.0 * f64::from(window.peak) >= self.limit {
                    self.limit = range.clamp(next);
                }
                if now >= look {
                    self.phase = Phase::Probing;
                }
            }
        }
    }
}

impl Window {
    fn new(began: Instant) -> Self {
        Self {
            began,
            samples: 0,
            sum: 0.0,
            peak: 0,
        }
    }
}

fn next_look(now: Instant) -> Instant {
    now + BASELINE_LASTS.mul_f64(0.9 + 0.2 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: Range = Range {
        floor: 4,
        ceiling: 1000,
    };

    /// A service that works on so many requests at once, each for as long; the others wait there.
    struct Simulated {
        gradient: Gradient,
        now: Instant,
        at_once: u32,
        each: Duration,
    }

    impl Simulated {
        fn new(at_once: u32, each: Duration) -> Self {
            Self {
                gradient: Gradient::default(),
                now: Instant::now(),
                at_once,
                each,
            }
        }

        /// As many requests as `offered` and the limit admit are always under way. The limits after each second.
        fn run(&mut self, seconds: u32, offered: u32) -> Vec<u32> {
            let mut limits = Vec::new();
            for _ in 0..seconds {
                let end = self.now + Duration::from_secs(1);
                while self.now < end {
                    let under_way = self.gradient.limit(RANGE, self.now).min(offered);
                    let latency = self
                        .each
                        .mul_f64((f64::from(under_way) / f64::from(self.at_once)).max(1.0));
                    let sent = self.now;
                    self.now += latency;
                    for _ in 0..under_way {
                        self.gradient.answered(RANGE, sent, self.now, under_way);
                    }
                }
                limits.push(self.gradient.limit(RANGE, self.now));
            }
            limits
        }
    }

    /// Where the limit has come to: a look at the baseline may be under way at the end, with half of it.
    fn settled(limits: &[u32]) -> u32 {
        let latest = limits.len().saturating_sub(10);
        limits[latest..].iter().copied().max().unwrap()
    }

    #[test]
    fn the_limit_finds_what_a_service_can_do_and_stays_there() {
        for at_once in [10, 50, 200] {
            let mut service = Simulated::new(at_once, Duration::from_millis(10));
            let limits = service.run(300, u32::MAX);
            let (low, high) = (at_once / 2, at_once * 2 + 8);
            assert!(
                limits[20..].iter().all(|limit| (low..=high).contains(limit)),
                "{at_once}: {limits:?}"
            );
        }
    }

    #[test]
    fn it_follows_a_service_that_becomes_less_and_more_able() {
        let mut service = Simulated::new(100, Duration::from_millis(10));
        service.run(60, u32::MAX);
        service.at_once = 20;
        let less = service.run(60, u32::MAX);
        assert!(*less.last().unwrap() <= 60, "{less:?}");
        service.at_once = 100;
        let more = service.run(60, u32::MAX);
        assert!(settled(&more) >= 70, "{more:?}");
    }

    #[test]
    fn a_service_that_becomes_slower_by_nature_is_not_starved() {
        let mut service = Simulated::new(100, Duration::from_millis(5));
        service.run(60, u32::MAX);
        service.each = Duration::from_millis(50);
        let limits = service.run(120, u32::MAX);
        assert!(settled(&limits) >= 60, "{limits:?}");
    }

    #[test]
    fn what_nobody_needs_is_not_granted() {
        let mut service = Simulated::new(1000, Duration::from_millis(5));
        let limits = service.run(60, 30);
        assert!(limits.iter().all(|limit| *limit <= 72), "{limits:?}");
    }

    #[test]
    fn the_range_holds() {
        let mut service = Simulated::new(1, Duration::from_millis(200));
        assert!(
            service
                .run(120, u32::MAX)
                .iter()
                .all(|limit| *limit >= RANGE.floor)
        );
        let mut service = Simulated::new(100_000, Duration::from_millis(1));
        assert_eq!(settled(&service.run(60, u32::MAX)), RANGE.ceiling);
    }
}
