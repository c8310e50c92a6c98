//! IPv4 (RFC 791), with options and fragments.

use enforcer_common::verdict::Reason;

use super::{Body, Packet, address::mapped, end};
use crate::frame::{Frame, Header};

const LENGTH: usize = 20;
/// More fragments follow.
const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

/// A header, if all of it is there.
#[inline(always)]
pub fn header(frame: &Frame, start: usize) -> Result<Header<LENGTH>, Reason> {
    frame.header::<LENGTH>(start).ok_or(Reason::Truncated)
}

/// What a header says.
#[inline(always)]
pub fn packet(header: Header<LENGTH>) -> Packet {
    let fragment = header.be16::<6>();
    Packet {
        source: mapped(header.u32::<12>()),
        destination: mapped(header.u32::<16>()),
        source_port: 0,
        destination_port: 0,
        protocol: header.u8::<9>(),
        detail: 0,
        hop_limit: 0,
        later_fragment: fragment & OFFSET != 0,
        fragment: fragment & (OFFSET | MORE) != 0,
    }
}

/// What is behind the header at `start`, options included.
#[inline(always)]
pub fn body(frame: &Frame, start: usize, header: Header<LENGTH>) -> Result<Body, Reason> {
    let first = header.u8::<0>();
    let length = usize::from(first & 0x0f) * 4;
    let total = usize::from(header.be16::<2>());
    if first >> 4 != 4 || length < LENGTH || (total != 0 && total < length) {
        return Err(Reason::Malformed);
    }
    let source = header.u32::<12>();
    // Multicast (224/4) and limited broadcast are no sources (RFC 1122, 3.2.1.3).
    if source.to_ne_bytes()[0] & 0xf0 == 0xe0 || source == u32::MAX {
        return Err(Reason::Martian);
    }
    let end = end(frame, start, total)?;
    // Options can be cut off where no total length is declared.
    if start + length > end {
        return Err(Reason::Truncated);
    }
    Ok(Body {
        start: start + length,
        end,
    })
}
