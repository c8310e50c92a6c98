//! IPv4 (RFC 791), with options and fragments.

use enforcer_common::{sketch::mapped, verdict::Reason};

use super::{Packet, end, transport};
use crate::frame::Frame;

const HEADER: usize = 20;
/// More fragments follow.
const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

#[inline(always)]
pub fn parse(frame: &Frame, start: usize) -> Result<Packet, Reason> {
    let header: [u8; HEADER] = frame.read(start).ok_or(Reason::Truncated)?;
    let length = usize::from(header[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[0] >> 4 != 4 || length < HEADER || (total != 0 && total < length) {
        return Err(Reason::Malformed);
    }
    // Multicast (224/4) and limited broadcast are no sources (RFC 1122, 3.2.1.3).
    if header[12] & 0xf0 == 0xe0 || header[12..16] == [255; 4] {
        return Err(Reason::Martian);
    }
    let end = end(frame, start, total)?;
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    let mut packet = Packet {
        source: mapped([header[12], header[13], header[14], header[15]]),
        destination: mapped([header[16], header[17], header[18], header[19]]),
        source_port: 0,
        destination_port: 0,
        protocol: header[9],
        detail: 0,
        hop_limit: header[8],
        later_fragment: fragment & OFFSET != 0,
        fragment: fragment & (OFFSET | MORE) != 0,
    };
    transport::parse(frame, start + length, end, &mut packet)?;
    Ok(packet)
}
