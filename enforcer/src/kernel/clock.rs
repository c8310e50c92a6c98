//! The kernel's monotonic clock, by which packets and denials are timed.

use std::time::Duration;

use time::OffsetDateTime;

/// Nanoseconds on `CLOCK_MONOTONIC`: what `bpf_ktime_get_ns` reads.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a timespec of ours; the clock always exists.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    debug_assert_eq!(result, 0);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
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
