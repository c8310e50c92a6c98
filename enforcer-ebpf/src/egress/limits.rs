//! Limits on the bytes that leave, by destination and by interface. As with `crate::limits`, one limit is one
//! call of a global function.

use enforcer_common::{
    layout::{
        Address, EGRESS_LIMITS_PER_POLICY, EgressLimits, Limit, MAX_POLICIES, NO_POLICY, limit_key,
        policy_flag,
    },
    limiter::Algorithm,
    verdict::Reason,
};

use super::Side;
use crate::{
    atomic::Cell,
    interface::Interface,
    limits::{ATTEMPTS, Outcome, by_algorithm, charge_once},
    maps::{CONTROL, EGRESS_LIMITS, SHARED},
    service,
    sketch::{Cells, words},
    verdict::Finding,
};

/// A packet that leaves under limits.
pub struct Load<'a> {
    pub interface: Interface,
    pub side: Side,
    pub destination: &'a Address,
    pub bytes: u64,
    pub now_ns: u64,
    /// Until when the agent counts as alive.
    pub alive_until_ns: u64,
}

/// Asks, and does not charge. Above the policy's place and the limit's index.
const ASK: u64 = 1 << 40;
const INDEX: u32 = 32;

const REFUSED: u64 = 0;
const ADMITTED: u64 = 1;
/// Another CPU was faster: nothing is decided.
const CONTENDED: u64 = 2;

impl Load<'_> {
    /// What the limits of the policy that a packet is under say of it; `pass` if nothing.
    #[inline(always)]
    pub fn under(&self, policy: u32, pass: Finding) -> Finding {
        if policy >= NO_POLICY {
            return pass;
        }
        let place = self.interface.slot() * MAX_POLICIES + policy;
        let Some(limits) = EGRESS_LIMITS.get(place) else {
            return pass;
        };
        if limits.count == 0 || limits.side != self.side as u32 {
            return pass;
        }
        // Limits need somebody who watches them.
        if self.now_ns > self.alive_until_ns {
            return Finding::pass(policy, Reason::AgentGone);
        }
        let place = u64::from(place);
        let several = limits.count > 1;
        let over = if several {
            self.refused_by(limits, place | ASK)
        } else {
            None
        };
        match over.or_else(|| self.refused_by(limits, place)) {
            None => pass,
            Some(index) => Finding {
                policy,
                reason: Reason::egress_limit(index),
                shadow: service::bank(self.interface, policy)
                    .is_none_or(|(_, bank)| bank.flags & policy_flag::SHADOW != 0),
                resets: 0,
            },
        }
    }

    /// The first limit that refuses, when all are asked or charged.
    #[inline(always)]
    fn refused_by(&self, limits: &EgressLimits, selector: u64) -> Option<u32> {
        for (index, limit) in limits.limits.iter().enumerate() {
            if index as u32 >= limits.count {
                break;
            }
            let (high, low) = if limit.key == limit_key::SOURCE {
                words(self.destination)
            } else {
                (0, u64::from(limit.shared + self.interface.position()))
            };
            if !self.admits(selector | (index as u64) << INDEX, high, low) {
                return Some(index as u32);
            }
        }
        None
    }

    #[inline(always)]
    fn admits(&self, selector: u64, high: u64, low: u64) -> bool {
        for _ in 0..ATTEMPTS {
            match enforcer_egress_limit(selector, high, low, self.now_ns, self.bytes) {
                CONTENDED => {}
                answer => return answer == ADMITTED,
            }
        }
        false
    }
}

#[inline(always)]
fn limit(selector: u64) -> Option<&'static Limit> {
    let limits = EGRESS_LIMITS.get(selector as u32)?;
    limits
        .limits
        .get((selector >> INDEX) as usize & (EGRESS_LIMITS_PER_POLICY - 1))
}

/// Asks or charges one limit, in one attempt. `high` and `low` are the destination, or `low` is the number of
/// a shared limiter.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enforcer_egress_limit(selector: u64, high: u64, low: u64, now_ns: u64, bytes: u64) -> u64 {
    let Some(limit) = limit(selector) else {
        return ADMITTED;
    };
    let (params, charges) = (&limit.params, selector & ASK == 0);
    // One that is missing, for which there is no way, limits nothing.
    let outcome = if limit.key == limit_key::SOURCE {
        let Some(control) = CONTROL.get(0) else {
            return ADMITTED;
        };
        let Some(cells) = Cells::of(control, limit, high, low) else {
            return ADMITTED;
        };
        by_algorithm!(params, known => cells.decide(&known, now_ns, bytes, charges))
    } else {
        let Some(cell) = SHARED.get_ptr_mut(low as u32) else {
            return ADMITTED;
        };
        // SAFETY: a map's value of eight bytes.
        let cell = unsafe { Cell::new(cell) };
        by_algorithm!(params, known => charge_once(cell, &known, now_ns, bytes, charges))
    };
    match outcome {
        Outcome::Refused => REFUSED,
        Outcome::Admitted => ADMITTED,
        Outcome::Contended => CONTENDED,
    }
}
