//! Counters of verdicts.

use super::MAX_POLICIES;
use crate::{verdict::Direction, verdict::Reason, verdict::Verdict};

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes of their frames.
    pub bytes: u64,
}

/// Entries of the counters map.
pub const COUNTERS: u32 = 2 * (MAX_POLICIES + 1) * Reason::COUNT * Verdict::COUNT;

/// The place of a verdict in the counters map.
#[inline(always)]
#[must_use]
pub const fn counter(direction: Direction, policy: u32, reason: Reason, verdict: Verdict) -> u32 {
    let policies = direction as u32 * (MAX_POLICIES + 1) + policy;
    (policies * Reason::COUNT + reason as u32) * Verdict::COUNT + verdict as u32
}

/// What a place in the counters map stands for: direction, policy, reason and verdict.
#[must_use]
pub fn counted(place: u32) -> Option<(Direction, u32, Reason, Verdict)> {
    let verdict = Verdict::ALL[(place % Verdict::COUNT) as usize];
    let rest = place / Verdict::COUNT;
    let reason = Reason::ALL[(rest % Reason::COUNT) as usize];
    let policies = rest / Reason::COUNT;
    let direction = Direction::ALL.get((policies / (MAX_POLICIES + 1)) as usize)?;
    Some((*direction, policies % (MAX_POLICIES + 1), reason, verdict))
}

/// Entries of the map of what policies in shadow would have done.
pub const TRIED_COUNTERS: u32 = 2 * (MAX_POLICIES + 1) * Reason::COUNT;

/// The place in that map of what a policy in shadow would have done with a packet that others decide about. The reason
/// says whether it would have passed.
#[inline(always)]
#[must_use]
pub const fn tried_counter(direction: Direction, policy: u32, reason: Reason) -> u32 {
    (direction as u32 * (MAX_POLICIES + 1) + policy) * Reason::COUNT + reason as u32
}

/// Bits by which a program that is told the time moves the verdict's place in the counters map, plus
/// one, to the left in what it returns. The hook's own number is below.
pub const PLACE_SHIFT: u32 = 8;
