//! IPv4 (RFC 791), with options and fragments.

use enforcer_common::{layout::Address, verdict::Reason};

use super::{Packet, address::mapped, end, transport};
use crate::frame::Frame;

const HEADER: usize = 20;
/// More fragments follow.
const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

#[inline(always)]
pub fn parse(frame: &Frame, start: usize) -> Result<Packet, Reason> {
    let header = frame.header::<HEADER>(start).ok_or(Reason::Truncated)?;
    let first = header.u8::<0>();
    let length = usize::from(first & 0x0f) * 4;
    let total = usize::from(header.be16::<2>());
    if first >> 4 != 4 || length < HEADER || (total != 0 && total < length) {
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
    let fragment = header.be16::<6>();
    let mut packet = Packet {
        source: mapped(source),
        destination: mapped(header.u32::<16>()),
        source_port: 0,
        destination_port: 0,
        protocol: header.u8::<9>(),
        detail: 0,
        hop_limit: 0,
        later_fragment: fragment & OFFSET != 0,
        fragment: fragment & (OFFSET | MORE) != 0,
    };
    transport::parse(frame, start + length, end, &mut packet)?;
    Ok(packet)
}

#[inline(always)]
pub fn destination(frame: &Frame, start: usize) -> Option<Address> {
    frame
        .header::<HEADER>(start)
        .map(|header| mapped(header.u32::<16>()))
}
