//! Stage 8: the one exit. Every verdict is counted with its policy and reason, and becomes the hook's
//! own number here and nowhere else.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use enforcer_common::{
    layout::{Counter, NO_POLICY, PLACE_SHIFT, counter, tried_counter},
    verdict::{Direction, Reason, Verdict},
};

use crate::{
    atomic::Cell,
    clock,
    maps::{COUNTERS, TRIED},
};

/// What the stages found.
#[must_use]
pub struct Finding {
    pub policy: u32,
    pub reason: Reason,
    /// The policy only counts.
    pub shadow: bool,
    /// 1: where it is dropped, its sender is told so. A number, so that the verifier looks at what follows once.
    pub resets: u64,
}

impl Finding {
    /// What lets a packet go on, whichever mode the policy is in.
    #[inline(always)]
    pub fn pass(policy: u32, reason: Reason) -> Self {
        Self {
            policy,
            reason,
            shadow: false,
            resets: 0,
        }
    }

    /// The verdict, and where it is counted.
    #[inline(always)]
    pub fn conclude(self, direction: Direction) -> Conclusion {
        let verdict = self.reason.verdict(self.shadow);
        let place = counter(direction, self.policy, self.reason, verdict);
        Conclusion { verdict, place }
    }
}

/// What has been decided.
#[must_use]
#[derive(Clone, Copy)]
pub struct Conclusion {
    pub verdict: Verdict,
    /// Where it is counted.
    pub place: u32,
}

impl Conclusion {
    /// The same drop, of which the sender is told.
    #[inline(always)]
    pub fn told_to_sender(self) -> Self {
        Self {
            verdict: Verdict::Reset,
            place: self.place + (Verdict::Reset as u32 - Verdict::Drop as u32),
        }
    }

    /// Counts it.
    #[inline(always)]
    pub fn count(&self, bytes: u64) {
        if let Some(entry) = COUNTERS.get_ptr_mut(self.place) {
            count(entry, bytes);
        }
    }

    /// Of a packet about which nothing can be said, for a map is missing, for which there is no way.
    pub const NOTHING: Self = Self {
        verdict: Verdict::Pass,
        place: counter(Direction::Egress, NO_POLICY, Reason::NoPolicy, Verdict::Pass),
    };

    /// As a number, for global functions.
    #[inline(always)]
    pub fn number(&self) -> u64 {
        u64::from(self.place) << 8 | self.verdict as u64
    }

    /// What [`Self::number`] gave.
    #[inline(always)]
    pub fn from_number(number: u64) -> Self {
        let verdict = match number as u8 {
            1 => Verdict::Drop,
            2 => Verdict::Shadow,
            3 => Verdict::Answer,
            4 => Verdict::Reset,
            _ => Verdict::Pass,
        };
        Self {
            verdict,
            place: (number >> 8) as u32,
        }
    }

    /// Whether people may want to look at it: a drop, or what would be one but for shadow. The answer to a
    /// SYN is no longer the packet that it answers.
    #[inline(always)]
    pub fn is_event(&self) -> bool {
        matches!(self.verdict, Verdict::Drop | Verdict::Shadow | Verdict::Reset)
    }

    /// Whether the packet goes on.
    #[inline(always)]
    pub fn passes(&self) -> bool {
        matches!(self.verdict, Verdict::Pass | Verdict::Shadow)
    }

    /// The hook's number. Who tells the time is told, beside it, where the verdict was counted.
    #[inline(always)]
    fn told(&self, number: u32) -> u32 {
        if clock::is_injected() {
            number & ((1 << PLACE_SHIFT) - 1) | (self.place + 1) << PLACE_SHIFT
        } else {
            number
        }
    }
}

/// Counts what a policy in shadow would have done with a packet that others decide about, or with one that goes on.
#[inline(always)]
pub fn count_tried(direction: Direction, policy: u32, reason: Reason, bytes: u64) {
    if let Some(entry) = TRIED.get_ptr_mut(tried_counter(direction, policy, reason)) {
        count(entry, bytes);
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
pub fn xdp(conclusion: &Conclusion) -> u32 {
    conclusion.told(match conclusion.verdict {
        Verdict::Pass | Verdict::Shadow => xdp_action::XDP_PASS,
        Verdict::Drop => xdp_action::XDP_DROP,
        Verdict::Answer | Verdict::Reset => xdp_action::XDP_TX,
    })
}

/// TC's number for a verdict, the same for TCX (`TCX_NEXT` is -1, `TCX_DROP` is 2): what passes goes on
/// to the next program.
#[inline(always)]
pub fn tc(conclusion: &Conclusion) -> i32 {
    let number = match conclusion.verdict {
        Verdict::Pass | Verdict::Shadow => TC_ACT_UNSPEC,
        // Nothing that leaves is answered.
        Verdict::Drop | Verdict::Answer | Verdict::Reset => TC_ACT_SHOT,
    };
    conclusion.told(number as u32) as i32
}
