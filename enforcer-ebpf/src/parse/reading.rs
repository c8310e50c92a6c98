//! A frame that is not plain, read by a global function: what it is comes back as a number, and the packet in
//! [`scratch`].

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    programs::{TcContext, XdpContext},
};
use enforcer_common::verdict::Reason;

use super::{ethernet, extension, ipv4, ipv6, transport};
use crate::{frame::Frame, maps::CONTROL, scratch};

/// What a frame is.
#[derive(Clone, Copy)]
pub struct Reading(u64);

/// IP, parsed to its end.
pub const IP: u64 = 0;
/// ARP.
pub const ARP: u64 = 1;
/// What keeps a link working, and is never IP.
pub const LINK_CONTROL: u64 = 2;
/// Anything else that is never IP.
pub const OTHER: u64 = 3;
/// What may carry IP that the stack unwraps at another device.
pub const OPAQUE: u64 = 4;
/// What the parser refuses, with addresses that can be read.
pub const MISSHAPEN: u64 = 5;
/// The same without.
pub const UNREADABLE: u64 = 6;

const REASON: u32 = 8;
/// Numbers of readings have this many bits.
pub const BITS: u32 = 16;

impl Reading {
    #[inline(always)]
    fn new(kind: u64) -> Self {
        Self(kind)
    }

    #[inline(always)]
    fn refused(kind: u64, reason: Reason) -> Self {
        Self(kind | (reason as u64) << REASON)
    }

    /// What [`Self::number`] gave.
    #[inline(always)]
    pub fn from(number: u64) -> Self {
        Self(number & ((1 << BITS) - 1))
    }

    #[inline(always)]
    pub fn kind(self) -> u64 {
        self.0 & ((1 << REASON) - 1)
    }

    /// Why the parser refuses it.
    #[inline(always)]
    pub fn reason(self) -> Reason {
        const MALFORMED: u64 = Reason::Malformed as u64;
        const MARTIAN: u64 = Reason::Martian as u64;
        const EXTENSION_HEADERS: u64 = Reason::ExtensionHeaders as u64;
        const VLAN_TAGS: u64 = Reason::VlanTags as u64;
        match self.0 >> REASON {
            MALFORMED => Reason::Malformed,
            MARTIAN => Reason::Martian,
            EXTENSION_HEADERS => Reason::ExtensionHeaders,
            VLAN_TAGS => Reason::VlanTags,
            _ => Reason::Truncated,
        }
    }

    /// Whether more of the frame might say more.
    #[inline(always)]
    pub fn is_cut_off(self) -> bool {
        self.kind() >= MISSHAPEN && matches!(self.reason(), Reason::Truncated)
    }
}

/// Reads what arrives. `bare`: it begins with the IP header.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn enforcer_read_xdp(ctx: *mut xdp_md, bare: u64) -> u64 {
    read(&Frame::of_xdp(&XdpContext::new(ctx)), bare != 0).0
}

/// Reads what is at TC.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn enforcer_read_tc(skb: *mut __sk_buff, bare: u64) -> u64 {
    read(&Frame::of_tc(&TcContext::new(skb)), bare != 0).0
}

#[inline(always)]
fn read(frame: &Frame, bare: bool) -> Reading {
    let Some(control) = CONTROL.get(0) else {
        return Reading::new(OTHER);
    };
    let zero = control.zero;
    let carried = if bare {
        bare_kind(frame)
    } else {
        ethernet::parse(frame, zero)
    };
    let (kind, start) = match carried {
        Ok(carried) => carried,
        Err(reason) => return Reading::refused(UNREADABLE, reason),
    };
    match kind {
        ethernet::IPV4 | ethernet::IPV6 => ip(frame, kind == ethernet::IPV4, start, zero),
        ethernet::ARP => Reading::new(ARP),
        kind if ethernet::is_link_control(kind) => Reading::new(LINK_CONTROL),
        kind if ethernet::is_opaque(kind) => Reading::new(OPAQUE),
        _ => Reading::new(OTHER),
    }
}

/// The type of what has no Ethernet header, by IP's version. The stack takes nothing else from such a device.
#[inline(always)]
fn bare_kind(frame: &Frame) -> Result<(u16, usize), Reason> {
    let first = frame.header::<1>(0).ok_or(Reason::Truncated)?.u8::<0>();
    match first >> 4 {
        4 => Ok((ethernet::IPV4, 0)),
        6 => Ok((ethernet::IPV6, 0)),
        _ => Err(Reason::Malformed),
    }
}

#[inline(always)]
fn ip(frame: &Frame, is_ipv4: bool, start: usize, zero: u64) -> Reading {
    let whole = if is_ipv4 {
        ipv4::header(frame, start).map(|header| (ipv4::packet(header), ipv4::body(frame, start, header)))
    } else {
        ipv6::header(frame, start).map(|header| (ipv6::packet(header), ipv6::body(frame, start, header)))
    };
    let (packet, body) = match whole {
        Ok(whole) => whole,
        Err(reason) => return Reading::refused(UNREADABLE, reason),
    };
    let mut packet = packet.blurred(zero);
    scratch::put_addresses(&packet.source, &packet.destination);
    let parsed = body
        .and_then(|body| extension::skip(frame, body, is_ipv4, &mut packet, zero))
        .and_then(|body| transport::parse(frame, body.start, body.end, &mut packet));
    match parsed {
        Ok(()) => {
            scratch::put(&packet);
            Reading::new(IP)
        }
        Err(reason) => Reading::refused(MISSHAPEN, reason),
    }
}
