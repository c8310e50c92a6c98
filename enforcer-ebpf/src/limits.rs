//! Stage 6: the policy's limits. All must admit the packet, and only then all are charged.

use enforcer_common::{
    layout::{Bank, Control, Interface, LIMITS_PER_POLICY, Limit, limit_count, limit_key},
    limiter::Params,
    verdict::Reason,
};

use crate::{atomic::Cell, maps::SHARED, parse::Packet, sketch::Cells};

/// Compare-and-swap attempts before a contended charge is refused.
pub const ATTEMPTS: usize = 4;

/// A packet under limits.
pub struct Charge<'a> {
    pub control: &'a Control,
    pub interface: &'a Interface,
    pub packet: &'a Packet,
    /// Of the frame.
    pub bytes: u64,
    pub now_ns: u64,
}

/// Where a limit keeps the packet's state.
enum State {
    Source(Cells),
    Shared(Cell),
}

/// The verdict of all limits.
#[inline(always)]
pub fn check(charge: &Charge<'_>, bank: &Bank) -> Reason {
    if bank.limit_count > 1 {
        for (index, limit) in bank.limits.iter().enumerate().take(LIMITS_PER_POLICY) {
            if index as u32 >= bank.limit_count {
                break;
            }
            if !charge.admits(limit) {
                return Reason::limit(index as u32);
            }
        }
    }
    for (index, limit) in bank.limits.iter().enumerate().take(LIMITS_PER_POLICY) {
        if index as u32 >= bank.limit_count {
            break;
        }
        if !charge.charge(limit) {
            return Reason::limit(index as u32);
        }
    }
    Reason::WithinLimits
}

impl Charge<'_> {
    #[inline(always)]
    fn admits(&self, limit: &Limit) -> bool {
        let Some(cost) = self.cost(limit) else { return true };
        match self.state(limit) {
            Some(State::Source(cells)) => cells.admits(limit, self.now_ns, cost),
            Some(State::Shared(cell)) => limit.params.admit(cell.read(), self.now_ns, cost).is_some(),
            None => true,
        }
    }

    #[inline(always)]
    fn charge(&self, limit: &Limit) -> bool {
        let Some(cost) = self.cost(limit) else { return true };
        match self.state(limit) {
            Some(State::Source(cells)) => cells.charge(limit, self.now_ns, cost),
            Some(State::Shared(cell)) => charge_cell(cell, &limit.params, self.now_ns, cost),
            None => true,
        }
    }

    /// What the packet costs, if the limit is about it.
    #[inline(always)]
    fn cost(&self, limit: &Limit) -> Option<u64> {
        match limit.count {
            limit_count::BYTES => Some(self.bytes),
            limit_count::CONNECTIONS => self.packet.opens_connection().then_some(1),
            _ => Some(1),
        }
    }

    #[inline(always)]
    fn state(&self, limit: &Limit) -> Option<State> {
        let index = match limit.key {
            limit_key::SOURCE => {
                return Cells::of(self.control, limit, &self.packet.source).map(State::Source);
            }
            limit_key::SERVICE => limit.shared,
            _ => limit.shared + self.interface.position,
        };
        // SAFETY: a map's value of eight bytes.
        SHARED.get_ptr_mut(index).map(|state| State::Shared(unsafe { Cell::new(state) }))
    }
}

/// Charges one limiter of its own.
#[inline(always)]
pub fn charge_cell(cell: Cell, params: &Params, now_ns: u64, cost: u64) -> bool {
    for _ in 0..ATTEMPTS {
        let state = cell.read();
        let Some(next) = params.admit(state, now_ns, cost) else { return false };
        if cell.swap(state, next) {
            return true;
        }
    }
    false
}
