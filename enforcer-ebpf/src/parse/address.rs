//! Addresses put together by the word: an array of sixteen bytes would be moved byte by byte.

use enforcer_common::layout::Address;

/// The address of two words that lie as in the packet.
#[inline(always)]
pub fn address(words: [u64; 2]) -> Address {
    // SAFETY: both are sixteen bytes, and any bytes are an address.
    unsafe { core::mem::transmute(words) }
}

/// The words of an address.
#[inline(always)]
pub fn words(address: &Address) -> [u64; 2] {
    // SAFETY: both are sixteen bytes, and any bytes are two words.
    unsafe { core::mem::transmute(*address) }
}

/// Whether it stands for an IPv4 address (RFC 4291, 2.5.5.2).
#[inline(always)]
pub fn is_mapped(words: [u64; 2]) -> bool {
    words[0] == 0 && words[1] as u32 == u32::to_be(0xffff)
}

/// An IPv4 address that lies as in the packet, mapped.
#[inline(always)]
pub fn mapped(ipv4: u32) -> Address {
    address([0, u64::from(u32::to_be(0xffff)) | u64::from(ipv4) << 32])
}
