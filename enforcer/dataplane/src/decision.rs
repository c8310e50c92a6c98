//! What a program that is told the time says of a packet: the hook's own number, and where it counted.

use enforcer_common::{
    layout::{NO_POLICY, PLACE_SHIFT, counted, counter},
    verdict::{Direction, Reason, Verdict},
};

use super::KernelError;

/// XDP's and TC's numbers; TC's are the last byte.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_UNSPEC: u32 = 0xff;

/// A verdict with all that it is counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Which way the packet went.
    pub direction: Direction,
    /// The policy's number, or [`NO_POLICY`].
    pub policy: u32,
    /// Why.
    pub reason: Reason,
    /// What.
    pub verdict: Verdict,
}

impl Decision {
    /// Where the kernel counts it: below [`enforcer_common::layout::COUNTERS`].
    #[must_use]
    pub const fn place(self) -> u32 {
        counter(self.direction, self.policy, self.reason, self.verdict)
    }

    pub fn from_number(direction: Direction, number: u32) -> Result<Self, KernelError> {
        let unknown = || KernelError::UnknownVerdict(number);
        let done = number & ((1 << PLACE_SHIFT) - 1);
        // The interface has no policies, so nothing is counted. TC's number for that has all bits set.
        if number >> PLACE_SHIFT == 0 || number == u32::MAX {
            if Some(done) != hook_number(direction, Verdict::Pass) {
                return Err(unknown());
            }
            return Ok(Self {
                direction,
                policy: NO_POLICY,
                reason: Reason::NoPolicy,
                verdict: Verdict::Pass,
            });
        }
        let (counted_as, policy, reason, verdict) =
            counted((number >> PLACE_SHIFT) - 1).ok_or_else(unknown)?;
        if counted_as != direction || Some(done) != hook_number(direction, verdict) {
            return Err(unknown());
        }
        Ok(Self {
            direction,
            policy,
            reason,
            verdict,
        })
    }
}

/// The hook's own number for a verdict.
const fn hook_number(direction: Direction, verdict: Verdict) -> Option<u32> {
    match (direction, verdict) {
        (Direction::Ingress, Verdict::Pass | Verdict::Shadow) => Some(XDP_PASS),
        (Direction::Ingress, Verdict::Drop) => Some(XDP_DROP),
        (Direction::Ingress, Verdict::Answer | Verdict::Reset) => Some(XDP_TX),
        (Direction::Egress, Verdict::Pass | Verdict::Shadow) => Some(TC_ACT_UNSPEC),
        (Direction::Egress, Verdict::Drop) => Some(TC_ACT_SHOT),
        (Direction::Egress, Verdict::Answer | Verdict::Reset) => None,
    }
}

/// What becomes of a packet: in shadow it goes on.
pub const fn carried_out(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Shadow => Verdict::Pass,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECISION: Decision = Decision {
        direction: Direction::Egress,
        policy: 7,
        reason: Reason::EgressDenied,
        verdict: Verdict::Drop,
    };

    #[test]
    fn numbers_are_read_back() {
        let number = (DECISION.place() + 1) << PLACE_SHIFT | TC_ACT_SHOT;
        assert_eq!(
            Decision::from_number(Direction::Egress, number).unwrap(),
            DECISION
        );
        let nothing = Decision::from_number(Direction::Egress, u32::MAX).unwrap();
        assert_eq!((nothing.policy, nothing.verdict), (NO_POLICY, Verdict::Pass));
        let nothing = Decision::from_number(Direction::Ingress, XDP_PASS).unwrap();
        assert_eq!((nothing.policy, nothing.reason), (NO_POLICY, Reason::NoPolicy));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let place = (DECISION.place() + 1) << PLACE_SHIFT;
        for (direction, number) in [
            (Direction::Ingress, 0),
            (Direction::Egress, 3),
            (Direction::Ingress, place | XDP_DROP),
            (Direction::Egress, place | TC_ACT_UNSPEC),
            (Direction::Ingress, 0x7fff_ff00 | XDP_DROP),
        ] {
            assert!(
                Decision::from_number(direction, number).is_err(),
                "{direction:?} {number:#x}"
            );
        }
    }
}
