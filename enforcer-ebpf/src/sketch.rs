//! The sketch of limiters for sources that nobody has vouched for: see `enforcer_common::sketch`.

use enforcer_common::{
    layout::{Control, Limit},
    limiter::Params,
    sketch::{CELLS, Place, ROWS},
};

pub use enforcer_common::sketch::words;

use crate::{atomic::Cell, forget::forget, limits::Outcome, maps::SKETCH};

/// A source's cells.
#[derive(Clone, Copy)]
pub struct Cells {
    line: *mut [u64; CELLS],
    place: Place,
    /// See [`Control::zero`].
    zero: u64,
}

impl Cells {
    /// The cells of a source, as [`words`], under `limit`.
    #[inline(always)]
    pub fn of(control: &Control, limit: &Limit, high: u64, low: u64) -> Option<Self> {
        let place = Place::of(control.key, control.sketch_mask, limit, high, low);
        let line = SKETCH.get_ptr_mut(place.line)?;
        Some(Self {
            line: line.cast(),
            place,
            zero: control.zero,
        })
    }

    #[inline(always)]
    fn cell(self, row: usize) -> Cell {
        // SAFETY: `line` is a map's value of CELLS words, and `Place::cell` is below CELLS.
        unsafe { Cell::new(self.line.cast::<u64>().add(self.place.cell(row))) }
    }

    #[inline(always)]
    fn states(self) -> [u64; ROWS] {
        [0, 1, 2, 3].map(|row| self.cell(row).read())
    }

    /// Whether the source may not spend `cost`.
    #[inline(always)]
    pub fn refuse(self, params: &Params, now_ns: u64, cost: u64) -> bool {
        self.all_refuse(self.states(), params, now_ns, cost)
    }

    /// Most of a flood ends here, by branches that all go one way: the processor need not wait for the line to
    /// come before it goes on. Which cell is least used, it could only guess.
    #[inline(always)]
    fn all_refuse(self, states: [u64; ROWS], params: &Params, now_ns: u64, cost: u64) -> bool {
        let refuses = |state| params.admit(forget(state, self.zero), now_ns, cost).is_none();
        let [a, b, c, d] = states;
        params.orders_all() && refuses(a) && refuses(b) && refuses(c) && refuses(d)
    }

    /// Whether the source may spend `cost`, and, if `charges`, takes it.
    ///
    /// The least state that the cells allow for is what the source has used at most; no cell is raised
    /// above what that plus the cost comes to (conservative update, Estan and Varghese, 2002). Each swap
    /// expects what the decision was made from, and all must succeed: of two that charge the same source
    /// at the same moment, one finds out and begins anew.
    #[inline(always)]
    pub fn decide(self, params: &Params, now_ns: u64, cost: u64, charges: bool) -> Outcome {
        // Each use of a state by a number of its own: what one step finds out about it must not be known
        // to the next.
        let blurred = |number| forget(number, self.zero);
        let settled = |state| blurred(params.settled(blurred(state), now_ns));
        let states = self.states();
        if self.all_refuse(states, params, now_ns, cost) {
            return Outcome::Refused;
        }
        let mut used = settled(states[0]);
        for state in &states[1..] {
            used = blurred(params.less_used(used, settled(*state)));
        }
        let Some(next) = params.admit(used, now_ns, cost) else {
            return Outcome::Refused;
        };
        let next = blurred(next);
        if !charges {
            return Outcome::Admitted;
        }
        for (row, state) in states.into_iter().enumerate() {
            let raised = blurred(params.more_used(settled(state), blurred(next)));
            if raised != state && !self.cell(row).swap(state, raised) {
                return Outcome::Contended;
            }
        }
        Outcome::Admitted
    }
}
