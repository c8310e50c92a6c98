//! Stage 7: the one exit. Every verdict is counted with its policy and reason, and becomes the hook's
//! own number here and nowhere else.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use enforcer_common::{
    layout::{Counter, counter},
    verdict::{Direction, Reason, Verdict},
};

use crate::{atomic::Cell, maps::COUNTERS};

/// What the stages found.
#[must_use]
pub struct Finding {
    pub policy: u32,
    pub reason: Reason,
    /// The policy only counts.
    pub shadow: bool,
}

impl Finding {
    /// Counts the verdict and says it.
    #[inline(always)]
    pub fn conclude(self, direction: Direction, bytes: u64) -> Verdict {
        let verdict = self.reason.verdict(self.shadow);
        if let Some(entry) = COUNTERS.get_ptr_mut(counter(direction, self.policy, self.reason, verdict)) {
            count(entry, bytes);
        }
        verdict
    }
}

#[inline(always)]
fn count(entry: *mut Counter, bytes: u64) {
    let words: *mut u64 = entry.cast();
    // SAFETY: a counter is two words, packets and bytes, in a per-CPU map's value.
    let (packets, total) = unsafe { (Cell::new(words), Cell::new(words.add(1))) };
    packets.add_local(1);
    total.add_local(bytes);
}

/// XDP's number for a verdict.
#[inline(always)]
pub fn xdp(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Pass | Verdict::Shadow => xdp_action::XDP_PASS,
        Verdict::Drop => xdp_action::XDP_DROP,
        Verdict::Answer => xdp_action::XDP_TX,
    }
}

/// TC's number for a verdict, the same for TCX (`TCX_NEXT` is -1, `TCX_DROP` is 2): what passes goes on
/// to the next program.
#[inline(always)]
pub fn tc(verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Pass | Verdict::Shadow => TC_ACT_UNSPEC,
        // Nothing that leaves is answered.
        Verdict::Drop | Verdict::Answer => TC_ACT_SHOT,
    }
}
