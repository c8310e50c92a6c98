//! The bytes of a packet, behind bounds checks that the verifier follows.
//!
//! One of the three modules with `unsafe`; the others are [`crate::atomic`] and `syn::socket`.

use core::arch::asm;

use aya_ebpf::programs::{TcContext, XdpContext};

/// A packet, of which a part can be read directly.
#[derive(Clone, Copy)]
pub struct Frame {
    start: usize,
    end: usize,
    /// All of it: what leaves may have its payload elsewhere.
    length: usize,
}

/// `N` bytes of a frame that are there.
#[derive(Clone, Copy)]
pub struct Header<const N: usize>(usize);

/// Loads by one instruction, which takes any alignment where the verifier does (x86-64, arm64, and
/// whatever else has efficient unaligned access); the compiler would load byte by byte.
macro_rules! load {
    ($(#[$doc:meta])* $name:ident, $type:ty, $width:literal) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $name<const AT: usize>(self) -> $type {
            const { assert!(AT + size_of::<$type>() <= N) };
            let value: u64;
            // SAFETY: `Frame::header` has checked that N bytes are there.
            unsafe {
                asm!(
                    concat!("{0} = *(", $width, " *)({1} + {2})"),
                    out(reg) value,
                    in(reg) self.0,
                    const AT,
                    options(pure, readonly, nostack, preserves_flags)
                );
            }
            value as $type
        }
    };
}

/// Stores by one instruction, as for [`load`].
macro_rules! store {
    ($(#[$doc:meta])* $name:ident, $type:ty, $width:literal) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $name<const AT: usize>(self, value: $type) {
            const { assert!(AT + size_of::<$type>() <= N) };
            // SAFETY: `Frame::header` has checked that N bytes are there, and an XDP program may write
            // to its packet.
            unsafe {
                asm!(
                    concat!("*(", $width, " *)({0} + {2}) = {1}"),
                    in(reg) self.0,
                    in(reg) u64::from(value),
                    const AT,
                    options(nostack, preserves_flags)
                );
            }
        }
    };
}

impl<const N: usize> Header<N> {
    load!(
        /// The byte at `AT`.
        u8, u8, "u8"
    );
    load!(
        /// Two bytes, as they lie there.
        u16, u16, "u16"
    );
    load!(
        /// Four bytes, as they lie there.
        u32, u32, "u32"
    );
    load!(
        /// Eight bytes, as they lie there.
        u64, u64, "u64"
    );

    store!(
        /// Writes two bytes, as they are to lie there.
        put_u16, u16, "u16"
    );
    store!(
        /// Writes four bytes, as they are to lie there.
        put_u32, u32, "u32"
    );
    store!(
        /// Writes eight bytes, as they are to lie there.
        put_u64, u64, "u64"
    );

    /// Where the bytes are, for the kernel's own functions.
    #[inline(always)]
    pub fn pointer<T>(self) -> *mut T {
        self.0 as *mut T
    }

    /// The number in two bytes of network byte order.
    #[inline(always)]
    pub fn be16<const AT: usize>(self) -> u16 {
        u16::from_be(self.u16::<AT>())
    }
}

impl Frame {
    /// What arrived.
    #[inline(always)]
    pub fn of_xdp(ctx: &XdpContext) -> Self {
        let (start, end) = (ctx.data(), ctx.data_end());
        Self {
            start,
            end,
            length: end - start,
        }
    }

    /// What leaves.
    #[inline(always)]
    pub fn of_tc(ctx: &TcContext) -> Self {
        Self {
            start: ctx.data(),
            end: ctx.data_end(),
            length: ctx.len() as usize,
        }
    }

    /// Bytes from the Ethernet header on, whether they can be read or not.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Bytes that can be read.
    #[inline(always)]
    pub fn readable(&self) -> usize {
        self.end - self.start
    }

    /// The `N` bytes from `offset` on, if all are there.
    #[inline(always)]
    pub fn header<const N: usize>(&self, offset: usize) -> Option<Header<N>> {
        let mut at = self.start + offset;
        // SAFETY: a register is copied to itself. It makes the compiler check and read through that one:
        // the verifier does not see that two sums are the same. (No instruction at all would leave two
        // lines of source at one offset, which the kernel's BTF check refuses.)
        unsafe { asm!("{0} = {0}", inout(reg) at, options(pure, nomem, nostack, preserves_flags)) };
        if at + N > self.end {
            return None;
        }
        Some(Header(at))
    }
}
