//! The kernel's monotonic clock, by which packets and denials are timed.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};
use time::OffsetDateTime;

/// Nanoseconds on `CLOCK_MONOTONIC`: what `bpf_ktime_get_ns` reads.
#[must_use]
pub fn monotonic_ns() -> u64 {
    ns(clock_gettime(ClockId::Monotonic))
}

/// Nanoseconds from one tick of the kernel to the next, or zero where its ticks do not follow the monotonic
/// clock: without high-resolution timers they are counted as they come (`tick_periodic`), and the clock is slewed.
#[must_use]
pub fn tick_ns() -> u64 {
    let [exact, coarse] = [ClockId::Monotonic, ClockId::MonotonicCoarse].map(|clock| ns(clock_getres(clock)));
    if exact == 1 { coarse } else { 0 }
}

fn ns(time: Timespec) -> u64 {
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// When, on the monotonic clock, `until` is. Zero if it is past.
#[must_use]
pub fn monotonic_at(until: OffsetDateTime, now: OffsetDateTime, now_ns: u64) -> u64 {
    match u64::try_from((until - now).whole_nanoseconds()) {
        Ok(ahead) => now_ns.saturating_add(ahead),
        Err(_) if until < now => 0,
        Err(_) => u64::MAX,
    }
}

/// The moment `ahead` of `now_ns`.
#[must_use]
pub fn after(now_ns: u64, ahead: Duration) -> u64 {
    now_ns.saturating_add(u64::try_from(ahead.as_nanos()).unwrap_or(u64::MAX))
}
