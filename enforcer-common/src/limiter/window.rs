//! Which window it is, and how a state's window lies to it.
//!
//! No value here is ever absent or has unused parts: the kernel's verifier refuses a program that reads what
//! was not written, even where the compiler knows that nothing comes of it.

use super::{FRESH, Params};

/// Where a clock stands in its windows, and where a state's window lies to that.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    /// The number of the window that is charged: the clock's, or the state's if that is believed to be ahead.
    pub(super) number: u64,
    /// How many windows that one is ahead of the clock's.
    pub(super) ahead: u64,
    /// How much of the clock's own window is left, in ns: from 1 to its length.
    left_ns: u64,
    /// The state was written in the window that is charged.
    pub(super) is_current: bool,
    /// The state was written in the window before.
    pub(super) is_previous: bool,
}

impl Clock {
    /// Reads the clock beside a state that was written in window `written`, of as many bits as `number_mask`.
    #[inline(always)]
    pub(super) fn read(params: &Params, now_ns: u64, state: u64, written: u64, number_mask: u64) -> Self {
        // A window without length has been refused before; this only keeps the division defined.
        let number = now_ns / if params.pace == 0 { 1 } else { params.pace };
        let passed_ns = now_ns.wrapping_sub(number.wrapping_mul(params.pace));
        let number = number & number_mask;
        let ahead = written.wrapping_sub(number) & number_mask;
        let is_current = state != FRESH && ahead <= params.ahead;
        Self {
            number: if is_current { written } else { number },
            ahead: if is_current { ahead } else { 0 },
            left_ns: params.pace.wrapping_sub(passed_ns),
            is_current,
            is_previous: state != FRESH && ahead == number_mask,
        }
    }

    /// How long until the end of the window that is charged.
    #[inline(always)]
    pub(super) fn end_ns(&self, params: &Params) -> u64 {
        self.left_ns.wrapping_add(self.ahead.wrapping_mul(params.pace))
    }

    /// What is left of the window that is charged, once it has begun.
    #[inline(always)]
    pub(super) fn left_ns(&self, params: &Params) -> u64 {
        if self.ahead == 0 {
            self.left_ns
        } else {
            params.pace
        }
    }
}
