//! The sketch of limiters for sources that nobody has vouched for: see `enforcer_common::sketch`.

use enforcer_common::{
    layout::{Control, Limit},
    limiter::Params,
    sketch::{CELLS, Place, ROWS},
};

pub use enforcer_common::sketch::words;

use crate::{atomic::Cell, limits::ATTEMPTS, maps::SKETCH};

/// A source's cells.
#[derive(Clone, Copy)]
pub struct Cells {
    line: *mut [u64; CELLS],
    place: Place,
}

impl Cells {
    /// The cells of a source, as [`words`], under `limit`.
    #[inline(always)]
    pub fn of(control: &Control, limit: &Limit, high: u64, low: u64) -> Option<Self> {
        let place = Place::of(control.key, control.sketch_mask, limit, high, low);
        let line = SKETCH.get_ptr_mut(place.line)?;
        Some(Self { line: line.cast(), place })
    }

    #[inline(always)]
    fn cell(self, row: usize) -> Cell {
        // SAFETY: `line` is a map's value of CELLS words, and `Place::cell` is below CELLS.
        unsafe { Cell::new(self.line.cast::<u64>().add(self.place.cell(row))) }
    }

    /// The least state that the cells allow for: what the source has used at most.
    #[inline(always)]
    fn used(self, params: &Params, now_ns: u64) -> u64 {
        let mut used = params.settled(self.cell(0).read(), now_ns);
        for row in 1..ROWS {
            used = params.less_used(used, params.settled(self.cell(row).read(), now_ns));
        }
        used
    }

    /// Whether the source may spend `cost`.
    #[inline(always)]
    pub fn admits(self, params: &Params, now_ns: u64, cost: u64) -> bool {
        params.admit(self.used(params, now_ns), now_ns, cost).is_some()
    }

    /// Charges `cost`: no cell is raised above what the source can have used at most (conservative
    /// update, Estan and Varghese, 2002). The first cell that has to be raised decides a race; the loser
    /// begins anew.
    #[inline(always)]
    pub fn charge(self, params: &Params, now_ns: u64, cost: u64) -> bool {
        for _ in 0..ATTEMPTS {
            let Some(next) = params.admit(self.used(params, now_ns), now_ns, cost) else { return false };
            if self.raise(params, now_ns, next) {
                return true;
            }
        }
        false
    }

    /// Whether the first swap succeeded.
    #[inline(always)]
    fn raise(self, params: &Params, now_ns: u64, next: u64) -> bool {
        let mut first = true;
        for row in 0..ROWS {
            let cell = self.cell(row);
            let state = cell.read();
            let raised = params.more_used(params.settled(state, now_ns), next);
            if raised != state {
                if !cell.swap(state, raised) && first {
                    return false;
                }
                first = false;
            }
        }
        true
    }
}
