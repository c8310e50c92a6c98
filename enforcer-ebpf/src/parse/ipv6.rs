//! IPv6 (RFC 8200), without its extension headers.

use enforcer_common::verdict::Reason;

use super::{
    Body, Packet,
    address::{address, is_mapped},
    end,
};
use crate::frame::{Frame, Header};

const LENGTH: usize = 40;

/// A header, if all of it is there.
#[inline(always)]
pub fn header(frame: &Frame, start: usize) -> Result<Header<LENGTH>, Reason> {
    frame.header::<LENGTH>(start).ok_or(Reason::Truncated)
}

/// What a header says.
#[inline(always)]
pub fn packet(header: Header<LENGTH>) -> Packet {
    Packet {
        source: address([header.u64::<8>(), header.u64::<16>()]),
        destination: address([header.u64::<24>(), header.u64::<32>()]),
        source_port: 0,
        destination_port: 0,
        protocol: header.u8::<6>(),
        detail: 0,
        hop_limit: header.u8::<7>(),
        later_fragment: false,
        fragment: false,
    }
}

/// What is behind the header at `start`.
#[inline(always)]
pub fn body(frame: &Frame, start: usize, header: Header<LENGTH>) -> Result<Body, Reason> {
    if header.u8::<0>() >> 4 != 6 {
        return Err(Reason::Malformed);
    }
    let source = [header.u64::<8>(), header.u64::<16>()];
    let destination = [header.u64::<24>(), header.u64::<32>()];
    // No packet comes from a multicast address (RFC 4291, 2.7), and a mapped one is no address on the
    // wire: it would be taken for the IPv4 source.
    if header.u8::<8>() == 0xff || is_mapped(source) || is_mapped(destination) {
        return Err(Reason::Martian);
    }
    let declared = usize::from(header.be16::<4>());
    let end = end(frame, start, if declared == 0 { 0 } else { declared + LENGTH })?;
    Ok(Body {
        start: start + LENGTH,
        end,
    })
}
