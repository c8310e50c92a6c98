//! Limits on the bytes that leave, by destination and by interface. As with `crate::limits`, one limit is one
//! call of a global function.

use enforcer_common::{
    layout::{Address, EGRESS_LIMITS_PER_POLICY, Limit, MAX_POLICIES, NO_POLICY, limit_key},
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
}

/// Asks, and does not charge. Above the policy's place and the limit's index.
const ASK: u64 = 1 << 40;
const INDEX: u32 = 32;

/// What limits say of a packet: nothing, that they have lapsed, or which of them it is over, from here on.
const WITHIN: u64 = 0;
const LAPSED: u64 = 1;
const OVER: u64 = 2;

/// What one attempt at one limit has come to.
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
        let (high, low) = words(self.destination);
        let what = u64::from(policy) | (self.side as u64) << SIDE | self.bytes << BYTES;
        match enforcer_egress_limits(self.interface.word(), what, high, low, self.now_ns) {
            WITHIN => pass,
            LAPSED => Finding::pass(policy, Reason::AgentGone),
            over => Finding {
                policy,
                reason: Reason::egress_limit((over - OVER) as u32),
                shadow: service::is_shadow(self.interface, policy),
                resets: 0,
            },
        }
    }
}

const SIDE: u32 = 16;
const BYTES: u32 = 32;

/// What the limits of a policy say of a packet. `what` is the policy, the side, and the bytes; `high` and `low`
/// are the destination. All limits must admit the packet, and only then all are charged.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enforcer_egress_limits(interface: u64, what: u64, high: u64, low: u64, now_ns: u64) -> u64 {
    let interface = Interface::from_word(interface);
    let place = interface.slot() * MAX_POLICIES + (what as u32 & 0xff);
    let Some(limits) = EGRESS_LIMITS.get(place) else {
        return WITHIN;
    };
    if limits.count == 0 || u64::from(limits.side) != what >> SIDE & 1 {
        return WITHIN;
    }
    // Limits need somebody who watches them.
    if CONTROL
        .get(0)
        .is_some_and(|control| now_ns > control.alive_until_ns)
    {
        return LAPSED;
    }
    let bytes = what >> BYTES;
    let passes: [u64; 2] = if limits.count > 1 { [ASK, 0] } else { [0, 0] };
    for (round, ask) in passes.into_iter().enumerate() {
        if round == 1 && limits.count == 1 {
            break;
        }
        for (index, limit) in limits.limits.iter().enumerate() {
            if index as u32 >= limits.count {
                break;
            }
            let (high, low) = if limit.key == limit_key::SOURCE {
                (high, low)
            } else {
                (0, u64::from(limit.shared + interface.position()))
            };
            let selector = u64::from(place) | (index as u64) << INDEX | ask;
            if !admits(selector, high, low, now_ns, bytes) {
                return OVER + index as u64;
            }
        }
    }
    WITHIN
}

/// One limit's answer, by as many attempts as contention may take.
#[inline(always)]
fn admits(selector: u64, high: u64, low: u64, now_ns: u64, bytes: u64) -> bool {
    for _ in 0..ATTEMPTS {
        match enforcer_egress_limit(selector, high, low, now_ns, bytes) {
            CONTENDED => {}
            answer => return answer == ADMITTED,
        }
    }
    false
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
