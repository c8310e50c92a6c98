//! IPv6 (RFC 8200), through its extension headers.

use enforcer_common::{
    layout::{Address, V4_MAPPED},
    verdict::Reason,
};

use super::{Packet, end, transport};
use crate::frame::Frame;

const HEADER: usize = 40;
/// Extension headers that are looked through; legitimate packets have one or two.
const MAX_EXTENSIONS: usize = 6;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;

#[inline(always)]
pub fn parse(frame: &Frame, start: usize) -> Result<Packet, Reason> {
    let fixed: [u8; 8] = frame.read(start).ok_or(Reason::Truncated)?;
    let source: Address = frame.read(start + 8).ok_or(Reason::Truncated)?;
    let destination: Address = frame.read(start + 24).ok_or(Reason::Truncated)?;
    if fixed[0] >> 4 != 6 {
        return Err(Reason::Malformed);
    }
    // No packet comes from a multicast address (RFC 4291, 2.7), and a mapped one is no address on the
    // wire: it would be taken for the IPv4 source.
    if source[0] == 0xff || source[..12] == V4_MAPPED || destination[..12] == V4_MAPPED {
        return Err(Reason::Martian);
    }
    let declared = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    let end = end(frame, start, if declared == 0 { 0 } else { declared + HEADER })?;
    let mut packet = Packet {
        source,
        destination,
        source_port: 0,
        destination_port: 0,
        protocol: fixed[6],
        detail: 0,
        hop_limit: fixed[7],
        later_fragment: false,
        fragment: false,
    };
    let payload = extensions(frame, start + HEADER, end, &mut packet)?;
    transport::parse(frame, payload, end, &mut packet)?;
    Ok(packet)
}

/// Where the transport header begins; sets the protocol and the fragment marks.
#[inline(always)]
fn extensions(frame: &Frame, start: usize, end: usize, packet: &mut Packet) -> Result<usize, Reason> {
    let mut offset = start;
    for _ in 0..MAX_EXTENSIONS {
        let kind = packet.protocol;
        if !is_extension(kind) {
            return Ok(offset);
        }
        let header: [u8; 4] = frame.read(offset).ok_or(Reason::Truncated)?;
        packet.protocol = header[0];
        offset += match kind {
            FRAGMENT => {
                packet.fragment = true;
                if u16::from_be_bytes([header[2], header[3]]) & 0xfff8 != 0 {
                    packet.later_fragment = true;
                    return Ok(offset);
                }
                8
            }
            AUTHENTICATION => (usize::from(header[1]) + 2) * 4,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        if offset > end {
            return Err(Reason::Truncated);
        }
    }
    if is_extension(packet.protocol) { Err(Reason::ExtensionHeaders) } else { Ok(offset) }
}

#[inline(always)]
fn is_extension(kind: u8) -> bool {
    matches!(
        kind,
        HOP_BY_HOP
            | ROUTING
            | FRAGMENT
            | AUTHENTICATION
            | DESTINATION_OPTIONS
            | MOBILITY
            | HOST_IDENTITY
            | SHIM6
    )
}
