//! When SYNs are answered with cookies under an `auto` policy. Pure, so that it can be tested.
//!
//! It begins at once, for a listener's queue is full within a second, and ends only after it has been
//! calm for a while: cookies cost a little, and going back and forth costs more.

use std::time::Duration;

/// How long fewer SYNs must have come before they are no longer answered.
pub const CALM: Duration = Duration::from_secs(30);

/// Whether a policy's SYNs are answered, with its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    answering: bool,
    calm: Duration,
}

impl Guard {
    /// Whether SYNs are answered now.
    #[must_use]
    pub fn answering(&self) -> bool {
        self.answering
    }

    /// Takes in an interval in which `per_second` SYNs came; whether they are answered from now on.
    pub fn observe(&mut self, per_second: f64, above: f64, interval: Duration) -> bool {
        if per_second > above {
            self.answering = true;
            self.calm = Duration::ZERO;
        } else {
            self.calm = self.calm.saturating_add(interval);
            self.answering &= self.calm < CALM;
        }
        self.answering
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABOVE: f64 = 1_000.0;
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_flood_is_answered_at_once() {
        let mut guard = Guard::default();
        assert!(
            !guard.observe(ABOVE, ABOVE, SECOND),
            "as many as allowed are no flood"
        );
        assert!(guard.observe(ABOVE + 1.0, ABOVE, SECOND));
    }

    #[test]
    fn it_ends_after_it_has_been_calm_for_long_enough() {
        let mut guard = Guard::default();
        assert!(guard.observe(5_000.0, ABOVE, SECOND));
        for _ in 1..CALM.as_secs() {
            assert!(guard.observe(10.0, ABOVE, SECOND));
        }
        assert!(!guard.observe(10.0, ABOVE, SECOND));
    }

    #[test]
    fn a_relapse_begins_the_wait_anew() {
        let mut guard = Guard::default();
        let _ = guard.observe(5_000.0, ABOVE, SECOND);
        for _ in 1..CALM.as_secs() {
            let _ = guard.observe(10.0, ABOVE, SECOND);
        }
        assert!(guard.observe(5_000.0, ABOVE, SECOND));
        for _ in 1..CALM.as_secs() {
            assert!(guard.observe(10.0, ABOVE, SECOND));
        }
        assert!(!guard.observe(10.0, ABOVE, SECOND));
    }

    #[test]
    fn calm_before_a_flood_does_not_count() {
        let mut guard = Guard::default();
        for _ in 0..100 {
            let _ = guard.observe(10.0, ABOVE, SECOND);
        }
        assert!(guard.observe(5_000.0, ABOVE, SECOND));
        assert!(guard.observe(10.0, ABOVE, SECOND));
    }
}
