//! Limiter states in maps: read, and swapped by compare-and-swap.
//!
//! One of the three modules with `unsafe`; the others are [`crate::frame`] and `syn::socket`.

use core::{
    intrinsics::{AtomicOrdering, atomic_cxchg},
    ptr,
};

/// An eight-byte cell of a map's value, shared with other CPUs and the agent.
#[derive(Clone, Copy)]
pub struct Cell(*mut u64);

impl Cell {
    /// # Safety
    /// `pointer` points to eight aligned bytes of a map's value.
    #[inline(always)]
    pub unsafe fn new(pointer: *mut u64) -> Self {
        Self(pointer)
    }

    /// The value now.
    #[inline(always)]
    pub fn read(self) -> u64 {
        // SAFETY: by `new`, aligned bytes of a map's value, which lives as long as the program runs.
        // Volatile, because LLVM has no atomic load for BPF; an aligned one is a single instruction.
        unsafe { ptr::read_volatile(self.0) }
    }

    /// Puts `new` where `old` is expected; whether it was.
    #[inline(always)]
    pub fn swap(self, old: u64, new: u64) -> bool {
        // SAFETY: as for `read`; becomes one `lock cmpxchg`.
        unsafe {
            atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(self.0, old, new).1
        }
    }

    /// Replaces what is this CPU's alone.
    #[inline(always)]
    pub fn put_local(self, value: u64) {
        // SAFETY: as for `add_local`.
        unsafe { *self.0 = value }
    }

    /// Adds to a counter of this CPU alone.
    #[inline(always)]
    pub fn add_local(self, amount: u64) {
        // SAFETY: as for `read`; per-CPU values have no other writer, for programs do not nest on a CPU.
        unsafe { *self.0 = (*self.0).wrapping_add(amount) }
    }
}
