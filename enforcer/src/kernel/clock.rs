//! The kernel's monotonic clock, by which packets and denials are timed.

use std::{thread, time::Duration};

use aya::{
    Ebpf,
    programs::{TestRun as _, TestRunOptions},
};
use time::OffsetDateTime;

use super::{
    KernelError,
    object::{self, Array},
};

/// Nanoseconds on `CLOCK_MONOTONIC`: what `bpf_ktime_get_ns` reads.
#[must_use]
pub fn monotonic_ns() -> u64 {
    // SAFETY: the pointer is to a timespec of ours.
    ns(|time| unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, time) })
}

/// Nanoseconds from one tick of the kernel to the next, or zero where its ticks do not follow the monotonic
/// clock: without high-resolution timers they are counted as they come (`tick_periodic`), and the clock is slewed.
#[must_use]
pub fn tick_ns() -> u64 {
    // SAFETY: as above.
    let [exact, coarse] = [libc::CLOCK_MONOTONIC, libc::CLOCK_MONOTONIC_COARSE]
        .map(|clock| ns(|time| unsafe { libc::clock_getres(clock, time) }));
    if exact == 1 { coarse } else { 0 }
}

/// What `ask` says about one of the clocks, which always exist.
fn ns(ask: impl FnOnce(*mut libc::timespec) -> libc::c_int) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let result = ask(&raw mut time);
    debug_assert_eq!(result, 0);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// How often it is measured when ticks began. The kernel's account of a tick is late by as long as that one was
/// handled late, so the middle one counts.
const MEASUREMENTS: usize = 5;

/// Lets the programs know when ticks began: see `enforcer-ebpf/src/clock.rs`. Takes as long as some ticks.
///
/// # Errors
/// The kernel refuses.
pub fn measure_origin(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    let mut clock: Array<u64> = object::take(ebpf, "CLOCK")?;
    let program = object::xdp(ebpf, object::ORIGIN)?;
    let mut origins = [0; MEASUREMENTS];
    for origin in &mut origins {
        program
            .test_run(TestRunOptions {
                // The least that the kernel takes for a frame.
                data_in: Some(&[0; 14]),
                ..TestRunOptions::default()
            })
            .map_err(|error| KernelError::TestRun(Box::new(error)))?;
        *origin = clock.get(&0, 0).map_err(KernelError::map("CLOCK"))?;
        thread::sleep(Duration::from_nanos(tick_ns()));
    }
    // Some lie before zero.
    origins.sort_unstable_by_key(|&origin| origin.cast_signed());
    let [_, _, middle, ..] = origins;
    clock.set(0, middle, 0).map_err(KernelError::map("CLOCK"))
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
