//! The sketch of limiters for sources that nobody has vouched for: see `enforcer_common::sketch`.

use enforcer_common::{
    layout::{Address, Control, Limit},
    sketch::{CELLS, Place, ROWS},
};

use crate::{atomic::Cell, limits::ATTEMPTS, maps::SKETCH};

/// A source's cells.
#[derive(Clone, Copy)]
pub struct Cells {
    line: *mut [u64; CELLS],
    place: Place,
}

impl Cells {
    /// The cells of the packet's source under `limit`.
    #[inline(always)]
    pub fn of(control: &Control, limit: &Limit, source: &Address) -> Option<Self> {
        let place = Place::of(control.key, control.sketch_mask, limit, source);
        let line = SKETCH.get_ptr_mut(place.line)?;
        Some(Self { line: line.cast(), place })
    }

    #[inline(always)]
    fn cell(self, row: usize) -> Cell {
        // SAFETY: `line` is a map's value of CELLS words, and `Place::cell` is below CELLS.
        unsafe { Cell::new(self.line.cast::<u64>().add(self.place.cell(row))) }
    }

    /// Whether the least used cell admits `cost`.
    #[inline(always)]
    pub fn admits(self, limit: &Limit, now_ns: u64, cost: u64) -> bool {
        (0..ROWS).any(|row| limit.params.charge(self.cell(row).read(), now_ns, cost).admitted())
    }

    /// Charges `cost` to the least used cell, and raises the others to no less (conservative update,
    /// Estan and Varghese, 2002). The least used cell's swap decides; the others may lose a race.
    #[inline(always)]
    pub fn charge(self, limit: &Limit, now_ns: u64, cost: u64) -> bool {
        for _ in 0..ATTEMPTS {
            let mut least = 0;
            let mut state = self.cell(0).read();
            for row in 1..ROWS {
                let other = self.cell(row).read();
                if limit.params.is_more_used(state, other) {
                    state = other;
                    least = row;
                }
            }
            let decision = limit.params.charge(state, now_ns, cost);
            if !decision.admitted() {
                return false;
            }
            if self.cell(least).swap(state, decision.state) {
                self.raise(limit, least, decision.state);
                return true;
            }
        }
        false
    }

    #[inline(always)]
    fn raise(self, limit: &Limit, least: usize, to: u64) {
        for row in 0..ROWS {
            let cell = self.cell(row);
            let state = cell.read();
            if row != least && limit.params.is_more_used(to, state) {
                cell.swap(state, to);
            }
        }
    }
}
