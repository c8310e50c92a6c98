//! Which window it is, and how a state's window lies to it.

use super::{FRESH, Params};

/// Where a clock stands in its windows.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    /// The window's number, in as many bits as the state has for it.
    pub(super) number: u64,
    /// How much of the window is left, in ns: from 1 to its length.
    pub(super) left_ns: u64,
}

/// How the window in which a state was written lies to the clock's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    /// It is the clock's, or the clock is so many windows behind.
    Ahead(u64),
    /// The one before the clock's.
    Previous,
    /// Nothing that counts now: older, or too far ahead to be true.
    Gone,
}

impl Clock {
    /// `None` if the window has no length: nobody built these parameters.
    #[inline(always)]
    pub(super) fn read(params: &Params, now_ns: u64, number_mask: u64) -> Option<Self> {
        let number = now_ns.checked_div(params.pace)?;
        let passed_ns = now_ns.wrapping_sub(number.wrapping_mul(params.pace));
        Some(Self {
            number: number & number_mask,
            left_ns: params.pace.wrapping_sub(passed_ns),
        })
    }

    #[inline(always)]
    pub(super) fn age(self, params: &Params, state: u64, written_in: u64, number_mask: u64) -> Age {
        let ahead = written_in.wrapping_sub(self.number) & number_mask;
        if state == FRESH {
            Age::Gone
        } else if ahead <= params.ahead {
            Age::Ahead(ahead)
        } else if ahead == number_mask {
            Age::Previous
        } else {
            Age::Gone
        }
    }

    /// How long until the end of the window that is so many ahead.
    #[inline(always)]
    pub(super) fn end_ns(self, params: &Params, ahead: u64) -> u64 {
        self.left_ns.wrapping_add(ahead.wrapping_mul(params.pace))
    }
}
