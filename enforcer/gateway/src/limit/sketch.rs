//! Limiters for any number of keys in constant memory, shared by all workers without a lock.
//!
//! A count-min sketch (Cormode, Muthukrishnan, 2005) whose cells are limiters, with conservative
//! update (Estan, Varghese, 2002). A key has four of the eight cells of one cache line, chosen by a
//! keyed hash. It is charged by its least used cell, and all four are then at least that much used. A
//! cell is therefore never less used than any of its keys, so that nobody gets more than the limit;
//! nothing is ever evicted, so that nobody gets a fresh limiter by crowding others out.
//!
//! What can happen is that others have used up all four cells of a key that has not used its limit.
//! If `n` keys use up theirs at a time, in `L` lines, with `λ = n / L`, that befalls another key with
//! probability
//!
//! `1 - 4·e^(-λ/2) + 6·e^(-11λ/14) - 4·e^(-13λ/14) + e^(-69λ/70)`
//!
//! by inclusion and exclusion over its cells. With the usual 65,536 lines (4 MiB):
//!
//! | keys at their limit | 100 | 1,000 | 10,000 | 65,536 |
//! | --- | --- | --- | --- | --- |
//! | a key below it is refused | 0.002 % | 0.02 % | 0.5 % | 10 % |
//!
//! Keys below their limit do not add up in a cell: it holds the most used one, or a little more.

use std::sync::atomic::{AtomicU64, Ordering};

use enforcer_common::{
    limiter::{Decision, Params},
    sketch::{CELLS, Place, ROWS},
};

use enforcer_sys::memory::Words;

/// Cache lines of a sketch unless told otherwise: 4 MiB, of which as much is in memory as keys have used.
pub const DEFAULT_LINES: usize = 1 << 16;

/// Cells that all belong to limiters of the same parameters.
#[derive(Debug)]
pub struct Sketch {
    params: Params,
    /// A page, and with it each line, begins where a line of the cache does.
    cells: Words,
}

impl Sketch {
    /// At least `lines` cache lines (a power of two) of fresh limiters.
    #[must_use]
    pub fn new(params: Params, lines: usize) -> Self {
        let lines = lines.max(1).next_power_of_two();
        Self {
            params,
            cells: Words::zero(lines * CELLS),
        }
    }

    /// What the limiters run with.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The state of a key's limiter: that of its least used cell.
    #[must_use]
    pub fn state(&self, key: u64, now_ns: u64) -> u64 {
        self.least(&self.read(&self.cells(key), now_ns))
    }

    /// Charges `cost` to a key at `now_ns`.
    ///
    /// Workers that charge one key at the same time do so one after the other: the deciding cell is
    /// swapped last, after the others have been raised, so that whoever has seen an older state
    /// fails to swap and decides again. Only for a sliding window whose cells other keys have used
    /// differently there may be no deciding cell; then as many charges as there are other workers may
    /// go uncounted in a race.
    pub fn charge(&self, key: u64, now_ns: u64, cost: u64) -> Decision {
        self.update(key, now_ns, |least| {
            let decision = self.params.charge(least, now_ns, cost);
            (decision.state, decision)
        })
    }

    /// Debits a key what it has spent already: see [`Params::debit`].
    pub fn debit(&self, key: u64, now_ns: u64, cost: u64) {
        self.update(key, now_ns, |least| (self.params.debit(least, now_ns, cost), ()));
    }

    /// Brings a key from its state to the one that `decide` makes of it.
    fn update<T>(&self, key: u64, now_ns: u64, decide: impl Fn(u64) -> (u64, T)) -> T {
        let cells = self.cells(key);
        loop {
            let states = self.read(&cells, now_ns);
            let least = self.least(&states);
            let (next, decision) = decide(least);
            if next == least {
                return decision;
            }
            let deciding = self.deciding(&states, least, next);
            for (index, cell) in cells.iter().enumerate() {
                if index != deciding {
                    self.raise(cell, next, now_ns);
                }
            }
            let State { raw, settled } = states[deciding];
            let raised = self.params.more_used(settled, next);
            let swapped = cells[deciding].compare_exchange(raw, raised, Ordering::AcqRel, Ordering::Relaxed);
            if swapped.is_ok() {
                return decision;
            }
        }
    }

    fn cells(&self, key: u64) -> [&AtomicU64; ROWS] {
        let lines = self.cells.len() / CELLS;
        let place = Place::of_hash(key, lines as u64 - 1);
        let (line, _) = self.cells[place.line as usize * CELLS..].as_chunks::<CELLS>();
        [0, 1, 2, 3].map(|row| &line[0][place.cell(row)])
    }

    fn read(&self, cells: &[&AtomicU64; ROWS], now_ns: u64) -> [State; ROWS] {
        cells.map(|cell| {
            let raw = cell.load(Ordering::Acquire);
            State {
                raw,
                settled: self.params.settled(raw, now_ns),
            }
        })
    }

    fn least(&self, states: &[State; ROWS]) -> u64 {
        let [first, rest @ ..] = states;
        rest.iter().fold(first.settled, |least, state| {
            self.params.less_used(least, state.settled)
        })
    }

    /// The first cell that is the least, else the first that the charge changes.
    fn deciding(&self, states: &[State; ROWS], least: u64, charged: u64) -> usize {
        let changes = |state: &State| self.params.more_used(state.settled, charged) != state.settled;
        states
            .iter()
            .position(|state| state.settled == least)
            .or_else(|| states.iter().position(changes))
            .unwrap_or(0)
    }

    /// Sees to it that the cell is at least as much used as `state`.
    fn raise(&self, cell: &AtomicU64, state: u64, now_ns: u64) {
        let raise = |raw| {
            let settled = self.params.settled(raw, now_ns);
            let raised = self.params.more_used(settled, state);
            (raised != raw).then_some(raised)
        };
        // An error means that nothing was to be done.
        let _ = cell.fetch_update(Ordering::AcqRel, Ordering::Acquire, raise);
    }
}

#[derive(Clone, Copy)]
struct State {
    /// As it lies in the cell.
    raw: u64,
    /// Fresh if it makes no difference any more.
    settled: u64,
}
