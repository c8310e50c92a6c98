//! How the verifier is made to forget.
//!
//! It follows every way through a program with what it knows of each number, and compares a way with an
//! earlier one by that knowledge. A number that it knew two things about on two branches makes it follow
//! both to the end; and what it once had to know of a number for a branch, it keeps apart further back.
//! Linux 6.1 gave up at its limit of a million instructions so.

use core::arch::asm;

/// The same number, of which the verifier knows nothing. `zero` is [`enforcer_common::layout::Control::zero`],
/// which comes from a map: the verifier cannot know that it is zero.
///
/// An instruction of its own and no sum: the compiler would find that two sums are one, and what a branch
/// says about that would be known of both.
#[inline(always)]
pub fn forget(mut number: u64, zero: u64) -> u64 {
    // SAFETY: adds two numbers.
    unsafe {
        asm!(
            "{0} += {1}",
            inout(reg) number,
            in(reg) zero,
            options(nomem, nostack, preserves_flags)
        );
    }
    number
}
