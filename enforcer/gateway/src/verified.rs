//! Which sources have proved lately who somebody behind them is: they come first where there is not room for all.
//!
//! All workers share it without a lock: cells of one `u64` in sets of four, chosen by a secret hash. A cell holds bits of
//! the source's hash and when it was seen. A new source takes the place of its set's longest unseen one. 256 KiB, of
//! which as much is in memory as sources have been seen.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use super::limit::key::source_prefix;
use enforcer_sys::memory::Words;

/// Sources that are remembered, at most.
const CELLS: usize = 1 << 15;
const WAYS: usize = 4;
/// For how long.
const LASTS: Duration = Duration::from_secs(600);
/// What is known may be so much behind: a source is written no more often.
const GRAIN: u64 = 10;
/// Bits of a cell that say when, in seconds since the start.
const SECONDS: u64 = (1 << 30) - 1;

/// The sources: IPv4 addresses and IPv6 /64s.
#[derive(Debug)]
pub(super) struct VerifiedSources {
    cells: Words,
    /// Secret, so that nobody can aim at the cells of others.
    hasher: RandomState,
    start: Instant,
}

impl Default for VerifiedSources {
    fn default() -> Self {
        Self {
            cells: Words::zero(CELLS),
            hasher: RandomState::new(),
            start: Instant::now(),
        }
    }
}

impl VerifiedSources {
    /// Somebody at `source` has proved who they are.
    pub(super) fn saw(&self, source: IpAddr) {
        self.saw_at(source, self.now());
    }

    /// Whether somebody at `source` has, lately.
    pub(super) fn is_recent(&self, source: IpAddr) -> bool {
        self.is_recent_at(source, self.now())
    }

    /// Seconds since the start, from one: a cell of zero is empty.
    fn now(&self) -> u64 {
        (self.start.elapsed().as_secs() + 1).min(SECONDS)
    }

    fn saw_at(&self, source: IpAddr, now: u64) {
        let (set, mark) = self.place(source);
        let ranked = |cell: &&AtomicU64| match cell.load(Ordering::Relaxed) {
            held if held & !SECONDS == mark && held != 0 => 0,
            held => 1 + (held & SECONDS),
        };
        let Some(cell) = set.iter().min_by_key(ranked) else {
            return;
        };
        let held = cell.load(Ordering::Relaxed);
        let is_new = held & !SECONDS != mark || (held & SECONDS) + GRAIN <= now || held == 0;
        if is_new {
            cell.store(mark | now, Ordering::Relaxed);
        }
    }

    fn is_recent_at(&self, source: IpAddr, now: u64) -> bool {
        let (set, mark) = self.place(source);
        set.iter().any(|cell| {
            let held = cell.load(Ordering::Relaxed);
            let seen = held & SECONDS;
            seen != 0 && held & !SECONDS == mark && now.saturating_sub(seen) <= LASTS.as_secs()
        })
    }

    fn place(&self, source: IpAddr) -> (&[AtomicU64], u64) {
        let hash = self.hasher.hash_one(source_prefix(source));
        let sets = CELLS / WAYS;
        // The bits that choose the set are not among those that tell sources apart.
        let first = usize::try_from(hash & SECONDS).unwrap_or(0) % sets * WAYS;
        (&self.cells[first..first + WAYS], hash & !SECONDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m7_a_source_is_remembered_for_a_while() {
        let verified = VerifiedSources::default();
        let [source, other] = ["2001:db8::1", "2001:db8:0:1::1"].map(|text| text.parse().unwrap());
        assert!(!verified.is_recent(source));
        verified.saw(source);
        assert!(verified.is_recent(source) && !verified.is_recent(other));
        assert!(verified.is_recent("2001:db8::2".parse().unwrap()), "one /64");
        let (later, late) = (1 + LASTS.as_secs(), 2 + LASTS.as_secs());
        assert!(verified.is_recent_at(source, later) && !verified.is_recent_at(source, late));
        verified.saw_at(source, later);
        assert!(verified.is_recent_at(source, late));
    }

    #[test]
    fn m7_as_many_as_fit_are_remembered_and_the_latest_always_is() {
        let verified = VerifiedSources::default();
        for n in 0..200_000_u32 {
            let source = IpAddr::from(n.to_be_bytes());
            verified.saw_at(source, 1 + u64::from(n) / 1_000);
            assert!(verified.is_recent_at(source, 1 + u64::from(n) / 1_000));
        }
    }
}
