//! The time: read once per packet, or injected for replay and tests.

use aya_ebpf::{Global, helpers::bpf_ktime_get_ns};

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

/// Nanoseconds on the kernel's monotonic clock.
#[inline(always)]
pub fn now_ns() -> u64 {
    if is_injected() {
        return CLOCK.get(0).copied().unwrap_or(0);
    }
    // SAFETY: the helper takes nothing and returns a number.
    unsafe { bpf_ktime_get_ns() }
}
