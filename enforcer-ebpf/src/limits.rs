//! Stage 6: the policy's limits. All must admit the packet, and only then all are charged.
//!
//! One limit is one call of [`enforcer_limit`], a global function that the verifier looks at once and
//! for itself. It takes numbers alone, so that nothing of the packet's history is looked at with it.

use enforcer_common::{
    layout::{Bank, LIMITS_PER_POLICY, Limit, limit_key},
    limiter::{Algorithm, Params},
    verdict::Reason,
};

use crate::{
    atomic::Cell,
    interface::Interface,
    maps::{CONTROL, POLICIES, SHARED},
    parse::Packet,
    service::Place,
    sketch::{Cells, words},
    syn::Handshake,
};

/// Compare-and-swap attempts before a contended charge is refused.
pub const ATTEMPTS: usize = 4;

/// A packet under limits.
pub struct Charge<'a> {
    pub interface: Interface,
    pub packet: &'a Packet,
    /// Of the frame.
    pub bytes: u64,
    pub now_ns: u64,
    pub handshake: Handshake,
}

/// Where [`enforcer_limit`] finds its limit, and whether it charges or only asks: one number.
#[derive(Clone, Copy)]
struct Selector(u64);

impl Selector {
    const ASK: u64 = 1 << 40;

    #[inline(always)]
    fn new(place: Place, limit: usize, charges: bool) -> Self {
        let ask = if charges { 0 } else { Self::ASK };
        Self(u64::from(place.index) | (u64::from(place.bank) << 32) | ((limit as u64) << 33) | ask)
    }

    #[inline(always)]
    fn limit(self) -> Option<&'static Limit> {
        let policy = POLICIES.get(self.0 as u32)?;
        let bank = if self.0 & (1 << 32) == 0 {
            &policy.banks[0]
        } else {
            &policy.banks[1]
        };
        bank.limits.get((self.0 >> 33) as usize & (LIMITS_PER_POLICY - 1))
    }

    #[inline(always)]
    fn charges(self) -> bool {
        self.0 & Self::ASK == 0
    }
}

/// The verdict of all limits.
#[inline(always)]
pub fn check(charge: &Charge<'_>, place: Place, bank: &Bank) -> Reason {
    let several = bank.limit_count > 1;
    if several && let Some(index) = charge.refused_by(place, bank, false) {
        return Reason::limit(index);
    }
    charge
        .refused_by(place, bank, true)
        .map_or(Reason::WithinLimits, Reason::limit)
}

impl Charge<'_> {
    /// The first limit that refuses, when all are asked or charged.
    #[inline(always)]
    fn refused_by(&self, place: Place, bank: &Bank, charges: bool) -> Option<u32> {
        for (index, limit) in bank.limits.iter().enumerate() {
            if index as u32 >= bank.limit_count {
                break;
            }
            let cost = self.handshake.cost(limit, self.bytes);
            if cost == 0 {
                continue;
            }
            let (high, low) = match limit.key {
                limit_key::SOURCE => words(&self.packet.source),
                limit_key::SERVICE => (0, u64::from(limit.shared)),
                _ => (0, u64::from(limit.shared + self.interface.position())),
            };
            let selector = Selector::new(place, index, charges);
            if !self.admits(selector, high, low, cost) {
                return Some(index as u32);
            }
        }
        None
    }

    /// One limit's answer, by as many attempts as contention may take.
    #[inline(always)]
    fn admits(&self, selector: Selector, high: u64, low: u64, cost: u64) -> bool {
        for _ in 0..ATTEMPTS {
            match enforcer_limit(selector.0, high, low, self.now_ns, cost) {
                CONTENDED => {}
                answer => return answer == ADMITTED,
            }
        }
        false
    }
}

/// What one attempt has come to.
#[derive(Clone, Copy)]
pub enum Outcome {
    Refused,
    Admitted,
    /// Another CPU was faster: nothing is decided.
    Contended,
}

pub const REFUSED: u64 = 0;
pub const ADMITTED: u64 = 1;
pub const CONTENDED: u64 = 2;

/// What an expression says under parameters of which it knows the algorithm.
///
/// Told apart here once, not at each step: otherwise the verifier follows every mixture. The buckets admit
/// alike. No function: the compiler would call it, and the stack is short.
macro_rules! by_algorithm {
    ($params:expr, $known:ident => $outcome:expr) => {
        match $params.algorithm() {
            Some(Algorithm::TokenBucket | Algorithm::LeakyBucket) => {
                let $known = $params.known_as(Algorithm::TokenBucket);
                $outcome
            }
            Some(Algorithm::FixedWindow) => {
                let $known = $params.known_as(Algorithm::FixedWindow);
                $outcome
            }
            Some(Algorithm::SlidingWindow) => {
                let $known = $params.known_as(Algorithm::SlidingWindow);
                $outcome
            }
            None => Outcome::Refused,
        }
    };
}
pub(crate) use by_algorithm;

/// Asks or charges one limit, in one attempt. `high` and `low` are the source, or `low` is the number of
/// a shared limiter.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enforcer_limit(selector: u64, high: u64, low: u64, now_ns: u64, cost: u64) -> u64 {
    let selector = Selector(selector);
    let Some(limit) = selector.limit() else {
        return ADMITTED;
    };
    let (params, charges) = (&limit.params, selector.charges());
    // One that is missing, for which there is no way, limits nothing.
    let outcome = if limit.key == limit_key::SOURCE {
        let Some(control) = CONTROL.get(0) else {
            return ADMITTED;
        };
        let Some(cells) = Cells::of(control, limit, high, low) else {
            return ADMITTED;
        };
        by_algorithm!(params, known => cells.decide(&known, now_ns, cost, charges))
    } else {
        let Some(cell) = SHARED.get_ptr_mut(low as u32) else {
            return ADMITTED;
        };
        // SAFETY: a map's value of eight bytes.
        let cell = unsafe { Cell::new(cell) };
        by_algorithm!(params, known => charge_once(cell, &known, now_ns, cost, charges))
    };
    match outcome {
        Outcome::Refused => REFUSED,
        Outcome::Admitted => ADMITTED,
        Outcome::Contended => CONTENDED,
    }
}

/// One attempt at a limiter of its own.
#[inline(always)]
pub fn charge_once(cell: Cell, params: &Params, now_ns: u64, cost: u64, charges: bool) -> Outcome {
    let state = cell.read();
    match params.admit(state, now_ns, cost) {
        None => Outcome::Refused,
        Some(next) if charges && next != state && !cell.swap(state, next) => Outcome::Contended,
        Some(_) => Outcome::Admitted,
    }
}

/// Charges a verified identity's budget.
#[inline(always)]
pub fn charge_budget(cell: Cell, params: &Params, now_ns: u64) -> bool {
    for _ in 0..ATTEMPTS {
        match charge_once(cell, params, now_ns, 1, true) {
            Outcome::Contended => {}
            outcome => return matches!(outcome, Outcome::Admitted),
        }
    }
    false
}
