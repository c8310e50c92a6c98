//! What lies between the IP header and the transport: IPv6's extension headers (RFC 8200, 4), and IPv4's
//! authentication header (RFC 4302).

use enforcer_common::verdict::Reason;

use super::{Body, Packet};
use crate::{forget::forget, frame::Frame};

/// Headers that are looked through. Linux goes through as many as a packet holds; legitimate packets have one or two.
const MAX_HEADERS: u32 = 64;
/// How far from the start of a frame the transport may begin: within what the verifier lets a program read.
const REACH: u64 = 0x7fff;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;

/// Whether a next header of IPv6 is an extension header, behind which comes another.
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

/// Whether an IPv4 protocol is the authentication header.
#[inline(always)]
pub fn is_authentication(kind: u8) -> bool {
    kind == AUTHENTICATION
}

/// The transport, behind all that precedes it; sets the protocol and the fragment marks. `zero` is for [`forget`]:
/// each round begins with numbers that the verifier knows nothing of, so that it looks at one way through it.
#[inline(always)]
pub fn skip(
    frame: &Frame,
    body: Body,
    is_ipv4: bool,
    packet: &mut Packet,
    zero: u64,
) -> Result<Body, Reason> {
    let mut offset = body.start as u64;
    let mut kind = u64::from(packet.protocol);
    let mut marks = u64::from(packet.fragment) | u64::from(packet.later_fragment) << 1;
    let mut left = MAX_HEADERS;
    loop {
        (offset, kind, marks) = (
            forget(offset, zero),
            forget(kind, zero) & 0xff,
            forget(marks, zero),
        );
        let more = if is_ipv4 {
            is_authentication(kind as u8)
        } else {
            is_extension(kind as u8)
        };
        // What follows in a later fragment is no header.
        if !more || marks & LATER != 0 {
            break;
        }
        if left == 0 || offset > REACH {
            return Err(Reason::ExtensionHeaders);
        }
        left -= 1;
        let header = frame.header::<4>(offset as usize).ok_or(Reason::Truncated)?;
        let length = u64::from(header.u8::<1>());
        offset += match kind as u8 {
            FRAGMENT => {
                let later = u64::from(header.be16::<2>() & 0xfff8 != 0);
                marks |= FIRST | later << 1;
                8
            }
            AUTHENTICATION => (length + 2) * 4,
            _ => (length + 1) * 8,
        };
        kind = u64::from(header.u8::<0>());
        if offset as usize > body.end {
            return Err(Reason::Truncated);
        }
    }
    if offset > REACH {
        return Err(Reason::ExtensionHeaders);
    }
    packet.protocol = kind as u8;
    packet.fragment = marks & FIRST != 0;
    packet.later_fragment = marks & LATER != 0;
    Ok(Body {
        start: offset as usize,
        end: body.end,
    })
}

const FIRST: u64 = 1;
const LATER: u64 = 2;
