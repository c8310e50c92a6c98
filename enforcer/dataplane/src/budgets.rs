//! Limiter states of verified identities: one of each identity for each limit per identity on the node.

use std::sync::Arc;

use enforcer_common::{
    layout::{CELLS_PER_IDENTITY, Limit, MAX_IDENTITIES},
    limiter::FRESH,
};

use super::{KernelError, elements::Elements as _, object::Array, sketch::SourceState};
use enforcer_supervision::sync::system_call;
use enforcer_sys::clock::monotonic_ns;

/// The states, for those who give identities places and those who give limits columns.
#[derive(Clone)]
pub struct Budgets(Arc<Array<u64>>);

impl Budgets {
    /// Over the given map.
    #[must_use]
    pub fn new(map: Array<u64>) -> Self {
        Self(Arc::new(map))
    }

    /// What a limit per identity has to say of the identity at a place now.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn state(&self, limit: &Limit, place: u32) -> Result<SourceState, KernelError> {
        system_call("BUDGETS");
        let cell = limit.shared + place;
        let state = self.0.get(&cell, 0).map_err(KernelError::map("BUDGETS"))?;
        Ok(SourceState::of(&limit.params, state, monotonic_ns()))
    }

    /// Fills all limiters of the identity at a place, for another one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn renew_identity(&self, place: u32) -> Result<(), KernelError> {
        self.renew((0..CELLS_PER_IDENTITY).map(|column| column * MAX_IDENTITIES + place))
    }

    /// Fills one limiter of every identity, for another limit.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn renew_column(&self, column: u32) -> Result<(), KernelError> {
        self.renew((0..MAX_IDENTITIES).map(|place| column * MAX_IDENTITIES + place))
    }

    fn renew(&self, mut cells: impl Iterator<Item = u32>) -> Result<(), KernelError> {
        cells.try_for_each(|cell| self.0.put("BUDGETS", &cell, &FRESH))
    }
}
