//! TCP (RFC 9293), UDP (RFC 768), ICMP (RFC 792) and ICMPv6 (RFC 4443), as far as ports and flags.

use enforcer_common::verdict::Reason;

use super::{Packet, protocol};
use crate::frame::Frame;

const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const ICMP_HEADER: usize = 8;
const ICMPV6_HEADER: usize = 4;

/// Fills in ports and detail. `end` is where the IP packet ends.
#[inline(always)]
pub fn parse(frame: &Frame, start: usize, end: usize, packet: &mut Packet) -> Result<(), Reason> {
    if packet.later_fragment {
        return Ok(());
    }
    match packet.protocol {
        protocol::TCP => {
            let header: [u8; 14] = header(frame, start, end, TCP_HEADER)?;
            let length = usize::from(header[12] >> 4) * 4;
            if length < TCP_HEADER {
                return Err(Reason::Malformed);
            }
            // In a first fragment too: options cut off by fragmentation are an old evasion (RFC 1858).
            if start + length > end {
                return Err(Reason::Truncated);
            }
            ports(packet, [header[0], header[1], header[2], header[3]]);
            packet.detail = header[13];
        }
        protocol::UDP => {
            let header: [u8; 8] = header(frame, start, end, UDP_HEADER)?;
            let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
            // A fragment's UDP length is that of the whole datagram.
            if length != 0 && length < UDP_HEADER || (!packet.fragment && start + length > end) {
                return Err(Reason::Malformed);
            }
            ports(packet, [header[0], header[1], header[2], header[3]]);
        }
        protocol::ICMP => packet.detail = header::<1>(frame, start, end, ICMP_HEADER)?[0],
        protocol::ICMPV6 => packet.detail = header::<1>(frame, start, end, ICMPV6_HEADER)?[0],
        _ => {}
    }
    Ok(())
}

/// The first `N` bytes of a header of `length`, all of which must be there.
#[inline(always)]
fn header<const N: usize>(frame: &Frame, start: usize, end: usize, length: usize) -> Result<[u8; N], Reason> {
    if start + length > end {
        return Err(Reason::Truncated);
    }
    frame.read(start).ok_or(Reason::Truncated)
}

#[inline(always)]
fn ports(packet: &mut Packet, [a, b, c, d]: [u8; 4]) {
    packet.source_port = u16::from_ne_bytes([a, b]);
    packet.destination_port = u16::from_ne_bytes([c, d]);
}
