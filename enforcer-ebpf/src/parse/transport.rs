//! TCP (RFC 9293), UDP (RFC 768), ICMP (RFC 792) and ICMPv6 (RFC 4443), as far as ports and flags.

use enforcer_common::verdict::Reason;

use super::{Packet, protocol};
use crate::frame::{Frame, Header};

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
            let header = header::<14>(frame, start, end, TCP_HEADER)?;
            let length = usize::from(header.u8::<12>() >> 4) * 4;
            if length < TCP_HEADER {
                return Err(Reason::Malformed);
            }
            // In a first fragment too: options cut off by fragmentation are an old evasion (RFC 1858).
            if start + length > end {
                return Err(Reason::Truncated);
            }
            packet.source_port = header.u16::<0>();
            packet.destination_port = header.u16::<2>();
            packet.detail = header.u8::<13>();
        }
        protocol::UDP => {
            let header = header::<8>(frame, start, end, UDP_HEADER)?;
            let length = usize::from(header.be16::<4>());
            // A fragment's UDP length is that of the whole datagram.
            if length != 0 && length < UDP_HEADER || (!packet.fragment && start + length > end) {
                return Err(Reason::Malformed);
            }
            packet.source_port = header.u16::<0>();
            packet.destination_port = header.u16::<2>();
        }
        protocol::ICMP => packet.detail = header::<4>(frame, start, end, ICMP_HEADER)?.u8::<0>(),
        protocol::ICMPV6 => packet.detail = header::<4>(frame, start, end, ICMPV6_HEADER)?.u8::<0>(),
        _ => {}
    }
    Ok(())
}

/// The first `N` bytes of a header of `length`, all of which must be there.
#[inline(always)]
fn header<const N: usize>(frame: &Frame, start: usize, end: usize, length: usize) -> Result<Header<N>, Reason> {
    if start + length > end {
        return Err(Reason::Truncated);
    }
    frame.header(start).ok_or(Reason::Truncated)
}
