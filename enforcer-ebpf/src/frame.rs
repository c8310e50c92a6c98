//! The bytes of a packet, behind bounds checks that the verifier follows.
//!
//! One of the two modules with `unsafe`; the other is [`crate::atomic`].

use core::ptr;

use aya_ebpf::programs::{TcContext, XdpContext};

/// The part of a packet that can be read directly.
#[derive(Clone, Copy)]
pub struct Frame {
    start: usize,
    end: usize,
}

/// Types that any bytes are a value of.
///
/// # Safety
/// The type holds integers alone, without padding.
pub unsafe trait Bytes: Copy {}

// SAFETY: integers and arrays of them.
unsafe impl Bytes for u8 {}
// SAFETY: as above.
unsafe impl Bytes for u16 {}
// SAFETY: as above.
unsafe impl<const N: usize> Bytes for [u8; N] {}

impl Frame {
    /// What arrived.
    #[inline(always)]
    pub fn of_xdp(ctx: &XdpContext) -> Self {
        Self { start: ctx.data(), end: ctx.data_end() }
    }

    /// The linear part of what leaves.
    #[inline(always)]
    pub fn of_tc(ctx: &TcContext) -> Self {
        Self { start: ctx.data(), end: ctx.data_end() }
    }

    /// Bytes from the Ethernet header on.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// The value at `offset`, if all of it is there. Multi-byte integers are in network byte order.
    #[inline(always)]
    pub fn read<T: Bytes>(&self, offset: usize) -> Option<T> {
        let at = self.start + offset;
        if at + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: all bytes lie between start and end, as just checked; `T` takes any bytes.
        Some(unsafe { ptr::read_unaligned(at as *const T) })
    }
}
