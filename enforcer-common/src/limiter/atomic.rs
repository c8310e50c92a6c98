//! A limiter that threads share.

use core::sync::atomic::{AtomicU64, Ordering};

use super::{Decision, Params};

/// Charges a shared limiter: the outcome is as if the charges came one after the other.
///
/// Lock-free: who loses a race decides again on the state that won. A refused charge writes nothing. The
/// state orders no other memory.
pub fn charge_atomic(cell: &AtomicU64, params: &Params, now_ns: u64, cost: u64) -> Decision {
    let mut state = cell.load(Ordering::Relaxed);
    loop {
        let decision = params.charge(state, now_ns, cost);
        if decision.state == state {
            return decision;
        }
        match cell.compare_exchange_weak(state, decision.state, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return decision,
            Err(newer) => state = newer,
        }
    }
}

/// Debits a shared limiter: see [`Params::debit`].
pub fn debit_atomic(cell: &AtomicU64, params: &Params, now_ns: u64, cost: u64) {
    let debit = |state| Some(params.debit(state, now_ns, cost));
    // The closure never gives up.
    let _ = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, debit);
}
