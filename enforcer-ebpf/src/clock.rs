//! The time, or what is injected in its place for replay and tests.
//!
//! A packet is told the time of the last tick, which costs a load. Limits that would tell the difference
//! read the clock itself once, by an instruction that waits for all loads before it: see
//! `layout::policy_flag::EXACT_TIME`.

use aya_ebpf::{
    Global,
    helpers::{
        bpf_ktime_get_ns,
        generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns},
    },
};

use crate::maps::CLOCK;

/// Not zero: the time is what the agent wrote into the clock map. Set before loading, so that the
/// verifier removes the branch that is not taken.
#[unsafe(no_mangle)]
static INJECTED_TIME: Global<u32> = Global::new(0);

/// Nanoseconds from one tick to the next, where they can be counted instead of asking for the time; else zero.
/// Set before loading.
#[unsafe(no_mangle)]
static TICK_NS: Global<u64> = Global::new(0);

/// Whether the agent tells the time: in replay and in tests.
#[inline(always)]
pub fn is_injected() -> bool {
    INJECTED_TIME.load() != 0
}

/// Nanoseconds on the kernel's monotonic clock as of its last tick: 1 to 10 ms behind at most (`CONFIG_HZ`),
/// ahead by no more than the interrupt took that [`measure_origin`] saw.
///
/// Ticks are counted: the verifier puts a load in the place of that helper (Linux 5.6), while the one for the
/// time is a chain of calls whose returns may not be predicted.
#[inline(always)]
pub fn tick_ns() -> u64 {
    if is_injected() {
        return now_ns();
    }
    let tick_ns = TICK_NS.load();
    if tick_ns == 0 {
        return coarse_ns();
    }
    let origin = CLOCK.get(0).copied().unwrap_or(0);
    origin.wrapping_add(ticks().wrapping_mul(tick_ns))
}

/// Writes into the clock map when the ticks began, as the number that [`tick_ns`] adds them to: the time of the
/// last tick by the kernel's own account, less what the ticks come to.
#[inline(always)]
pub fn measure_origin() {
    // Ticks first: a tick in between makes the origin late, never early.
    let ticks = ticks();
    if let Some(origin) = CLOCK.get_ptr_mut(0) {
        // SAFETY: a map's value of eight bytes, which nobody else writes while it is measured.
        unsafe { *origin = coarse_ns().wrapping_sub(ticks.wrapping_mul(TICK_NS.load())) };
    }
}

/// Ticks since some moment before the start (`jiffies_64`).
#[inline(always)]
fn ticks() -> u64 {
    // SAFETY: the helper takes nothing and returns a number.
    unsafe { bpf_jiffies64() }
}

/// `CLOCK_MONOTONIC_COARSE` (Linux 5.11).
#[inline(always)]
fn coarse_ns() -> u64 {
    // SAFETY: as for `ticks`.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Nanoseconds on the kernel's monotonic clock.
#[inline(always)]
pub fn now_ns() -> u64 {
    if is_injected() {
        return CLOCK.get(0).copied().unwrap_or(0);
    }
    // SAFETY: as for `ticks`.
    unsafe { bpf_ktime_get_ns() }
}
