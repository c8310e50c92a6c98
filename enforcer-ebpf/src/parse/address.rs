//! Addresses put together by the word: an array of sixteen bytes would be moved byte by byte.

use enforcer_common::layout::Address;

/// An IPv6 address, as two words that lie as in the packet.
#[derive(Clone, Copy)]
pub struct Words(pub u64, pub u64);

impl Words {
    /// The array of the same bytes.
    #[inline(always)]
    pub fn address(self) -> Address {
        // SAFETY: both are sixteen bytes, and any bytes are an address.
        unsafe { core::mem::transmute([self.0, self.1]) }
    }

    /// Whether it stands for an IPv4 address (RFC 4291, 2.5.5.2).
    #[inline(always)]
    pub fn is_mapped(self) -> bool {
        self.0 == 0 && self.1 as u32 == u32::to_be(0xffff)
    }
}

/// An IPv4 address that lies as in the packet, mapped.
#[inline(always)]
pub fn mapped(address: u32) -> Address {
    Words(0, u64::from(u32::to_be(0xffff)) | u64::from(address) << 32).address()
}
