//! What the lab's kernel programs and the lab itself agree on: both include this file.

/// How many bytes of a frame `lab_flood` writes anew for each IPv4 packet.
pub(crate) const HEADER_V4: usize = 64;

/// The same for IPv6.
pub(crate) const HEADER_V6: usize = 80;

/// How many different IPv4 sources `lab_sink` can tell apart: those that differ in their last 22 bits.
pub(crate) const SOURCES_SEEN: u32 = 1 << 22;

/// [`Plan::checksum`]: nothing above IP depends on the source.
pub(crate) const CHECKSUM_NONE: u32 = 0;
// The program tells the others from it, and treats it as it comes.
const _: () = assert!(CHECKSUM_NONE != CHECKSUM_TCP && CHECKSUM_NONE != CHECKSUM_UDP);
/// [`Plan::checksum`]: TCP's.
pub(crate) const CHECKSUM_TCP: u32 = 1;
/// [`Plan::checksum`]: UDP's.
pub(crate) const CHECKSUM_UDP: u32 = 2;
/// [`Plan::checksum`]: ICMPv6's.
pub(crate) const CHECKSUM_ICMPV6: u32 = 3;

/// What `lab_flood` sends.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Plan {
    /// The first bytes of each frame, with the source's varying word, the source port and the
    /// checksums that depend on them all zero.
    pub(crate) header: [u64; HEADER_V6 / 8],
    /// 4 or 6.
    pub(crate) family: u32,
    /// The interface that the frames leave by.
    pub(crate) interface: u32,
    /// IPv4: the first source. IPv6: its bytes 4 to 7, so that each source is a /64 of its own.
    pub(crate) first_source: u32,
    /// How many sources take turns. Never zero.
    pub(crate) sources: u32,
    /// The first source port.
    pub(crate) first_port: u32,
    /// How many source ports take turns; zero where the protocol has none.
    pub(crate) ports: u32,
    /// The sum of the IPv4 header's 16-bit words as `header` has them.
    pub(crate) ip_sum: u32,
    /// The sum of pseudo-header and segment as `header` has them.
    pub(crate) transport_sum: u32,
    /// Which checksum `transport_sum` is for.
    pub(crate) checksum: u32,
    /// Not zero: every second packet is of the other plan. Of the first plan only.
    pub(crate) alternates: u32,
}

const _: () = assert!(size_of::<Plan>() == 120);
