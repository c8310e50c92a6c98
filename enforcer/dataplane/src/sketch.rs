//! Reading the sketch: how much a source has used, for `explain`.

use std::net::IpAddr;

use enforcer_common::{
    layout::Limit,
    limiter::Params,
    sketch::{CELLS, Line, Place, ROWS, words},
};

use super::{KernelError, address::address, control::ControlBlock, elements::Elements as _, object::Array};
use enforcer_supervision::sync::system_call;
use enforcer_sys::clock::monotonic_ns;

/// The sketch of limiters.
pub struct Sketch {
    map: Array<Line>,
    control: ControlBlock,
}

/// What a limit has to say of a source now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceState {
    /// How much it could send at once.
    pub remaining: u64,
    /// How long until one unit is admitted, in ns. Zero: now.
    pub retry_after_ns: u64,
}

impl SourceState {
    /// By a limiter's state.
    pub fn of(params: &Params, state: u64, now_ns: u64) -> Self {
        Self {
            remaining: params.remaining(state, now_ns),
            retry_after_ns: params.charge(state, now_ns, 1).retry_after_ns,
        }
    }
}

impl Sketch {
    /// Over the given map.
    #[must_use]
    pub fn new(map: Array<Line>, control: ControlBlock) -> Self {
        Self { map, control }
    }

    /// Bytes of memory that it takes, whatever arrives.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        u64::from(self.map.len()) * size_of::<Line>() as u64
    }

    /// Forgets what all sources have used.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn forget(&self) -> Result<(), KernelError> {
        let unused = Line { cells: [0; CELLS] };
        (0..self.map.len()).try_for_each(|line| self.map.put("SKETCH", &line, &unused))
    }

    /// The state of `source` under a limit by source.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn state(&self, limit: &Limit, source: IpAddr) -> Result<SourceState, KernelError> {
        let control = self.control.current();
        let (high, low) = words(&address(source));
        let place = Place::of(control.key, control.sketch_mask, limit, high, low);
        system_call("SKETCH");
        let line = self.map.get(&place.line, 0).map_err(KernelError::map("SKETCH"))?;
        let now_ns = monotonic_ns();
        let params = &limit.params;
        let cells = (0..ROWS).map(|row| params.settled(line.cells[place.cell(row)], now_ns));
        let state = cells.reduce(|a, b| params.less_used(a, b)).unwrap_or_default();
        Ok(SourceState::of(params, state, now_ns))
    }
}
