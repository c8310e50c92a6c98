//! The time, or what is injected in its place for replay and tests.
//!
//! A packet is told the time of the last tick, which costs a load. Limits that would tell the difference
//! read the clock itself once, by an instruction that waits for all loads before it: see
//! `layout::policy_flag::EXACT_TIME`.

use aya_ebpf::{
    Global,
    helpers::{bpf_ktime_get_ns, generated::bpf_ktime_get_coarse_ns},
};

use crate::maps::CLOCK;

/// Not zero: the time is what the agent wrote into the clock map. Set before loading, so that the
/// verifier removes the branch that is not taken.
#[unsafe(no_mangle)]
static INJECTED_TIME: Global<u32> = Global::new(0);

/// Whether the agent tells the time: in replay and in tests.
#[inline(always)]
pub fn is_injected() -> bool {
    INJECTED_TIME.load() != 0
}

/// Nanoseconds on the kernel's monotonic clock as of its last tick: 1 to 10 ms behind at most (`CONFIG_HZ`),
/// never ahead. Linux 5.11.
#[inline(always)]
pub fn tick_ns() -> u64 {
    if is_injected() {
        return now_ns();
    }
    // SAFETY: the helper takes nothing and returns a number.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Nanoseconds on the kernel's monotonic clock.
#[inline(always)]
pub fn now_ns() -> u64 {
    if is_injected() {
        return CLOCK.get(0).copied().unwrap_or(0);
    }
    // SAFETY: the helper takes nothing and returns a number.
    unsafe { bpf_ktime_get_ns() }
}
