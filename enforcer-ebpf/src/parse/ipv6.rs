//! IPv6 (RFC 8200), through its extension headers.

use enforcer_common::{layout::Address, verdict::Reason};

use super::{
    Packet,
    address::{address, is_mapped},
    end, transport,
};
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
    let header = frame.header::<HEADER>(start).ok_or(Reason::Truncated)?;
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
    let end = end(frame, start, if declared == 0 { 0 } else { declared + HEADER })?;
    let mut packet = Packet {
        source: address(source),
        destination: address(destination),
        source_port: 0,
        destination_port: 0,
        protocol: header.u8::<6>(),
        detail: 0,
        hop_limit: header.u8::<7>(),
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
        let header = frame.header::<4>(offset).ok_or(Reason::Truncated)?;
        packet.protocol = header.u8::<0>();
        offset += match kind {
            FRAGMENT => {
                packet.fragment = true;
                packet.later_fragment = header.be16::<2>() & 0xfff8 != 0;
                8
            }
            AUTHENTICATION => (usize::from(header.u8::<1>()) + 2) * 4,
            _ => (usize::from(header.u8::<1>()) + 1) * 8,
        };
        if offset > end {
            return Err(Reason::Truncated);
        }
        // What follows in a later fragment is no header.
        if packet.later_fragment {
            return Ok(offset);
        }
    }
    if is_extension(packet.protocol) {
        Err(Reason::ExtensionHeaders)
    } else {
        Ok(offset)
    }
}

/// Whether a next header is an extension header, behind which comes another.
#[inline(always)]
pub fn is_extension(kind: u8) -> bool {
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

#[inline(always)]
pub fn destination(frame: &Frame, start: usize) -> Option<Address> {
    frame
        .header::<HEADER>(start)
        .map(|header| address([header.u64::<24>(), header.u64::<32>()]))
}
