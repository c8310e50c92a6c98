//! Stage 1: what the packet is. Ethernet or none, VLAN tags, IPv4 or IPv6, extension headers, transport.
//!
//! What Linux unwraps to IP is judged, however it is wrapped. Most packets are [`plain`], and are parsed in place; all
//! others take a [`reading`], by a global function.

pub mod address;
pub mod ethernet;
mod extension;
mod ipv4;
mod ipv6;
pub mod reading;
mod transport;

use enforcer_common::{
    layout::{Address, traffic},
    verdict::Reason,
};
pub use extension::is_extension;

use self::{
    address::{address, is_mapped, words},
    extension::is_authentication,
};
use crate::frame::Frame;

/// What the later stages know of a packet.
pub struct Packet {
    /// IPv4 as mapped.
    pub source: Address,
    /// IPv4 as mapped.
    pub destination: Address,
    /// Network byte order; zero where the protocol has none.
    pub source_port: u16,
    /// Network byte order; zero where the protocol has none.
    pub destination_port: u16,
    /// The transport's IP protocol number.
    pub protocol: u8,
    /// TCP's flags, or ICMP's type.
    pub detail: u8,
    /// IPv6's hop limit. Zero for IPv4, which has no neighbour discovery to tell by it.
    pub hop_limit: u8,
    /// A fragment that is not the first: it has no ports.
    pub later_fragment: bool,
    /// Part of a fragmented packet.
    pub fragment: bool,
}

/// IP protocol numbers.
pub mod protocol {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
}

/// A protocol number, with one for the ICMP of both families.
#[inline(always)]
pub fn both_families(number: u8) -> u8 {
    if number == protocol::ICMPV6 {
        protocol::ICMP
    } else {
        number
    }
}

/// TCP flags.
pub mod tcp {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;
}

/// Whether it is an IPv4 address, mapped.
#[inline(always)]
pub fn is_ipv4(address: &Address) -> bool {
    is_mapped(words(address))
}

impl Packet {
    /// The same packet, of which the verifier no longer knows which kind it is: `zero` is zero.
    #[inline(always)]
    pub fn blurred(self, zero: u64) -> Self {
        let word = |address: Address, at: usize| words(&address)[at].wrapping_add(zero);
        let byte = |byte: u8| u64::from(byte).wrapping_add(zero) as u8;
        Self {
            source: address([word(self.source, 0), word(self.source, 1)]),
            destination: address([word(self.destination, 0), word(self.destination, 1)]),
            source_port: u64::from(self.source_port).wrapping_add(zero) as u16,
            destination_port: u64::from(self.destination_port).wrapping_add(zero) as u16,
            protocol: byte(self.protocol),
            detail: byte(self.detail),
            hop_limit: byte(self.hop_limit),
            later_fragment: byte(u8::from(self.later_fragment)) != 0,
            fragment: byte(u8::from(self.fragment)) != 0,
        }
    }

    /// The kind of traffic that it is.
    #[inline(always)]
    pub fn traffic(&self) -> u8 {
        match self.protocol {
            protocol::TCP if self.opens_connection() => traffic::TCP_SYN,
            protocol::TCP => traffic::TCP_OTHER,
            protocol::UDP => traffic::UDP,
            protocol::ICMP | protocol::ICMPV6 => traffic::ICMP,
            _ => traffic::OTHER,
        }
    }

    /// Whether it opens a TCP connection.
    #[inline(always)]
    pub fn opens_connection(&self) -> bool {
        self.protocol == protocol::TCP
            && !self.later_fragment
            && self.detail & (tcp::SYN | tcp::ACK) == tcp::SYN
    }
}

/// What is behind an IP header: where it begins, and where the packet ends.
#[derive(Clone, Copy)]
pub struct Body {
    pub start: usize,
    pub end: usize,
}

/// What most packets are: IP right behind an Ethernet header, the transport right behind IP, and nothing wrong.
/// `None`: it takes a [`reading`].
#[inline(always)]
pub fn plain(frame: &Frame) -> Option<Packet> {
    let start = ethernet::HEADER;
    let kind = ethernet::kind(frame).ok()?;
    let (mut packet, body) = match kind {
        ethernet::IPV4 => {
            let header = ipv4::header(frame, start).ok()?;
            let packet = ipv4::packet(header);
            if is_authentication(packet.protocol) {
                return None;
            }
            (packet, ipv4::body(frame, start, header).ok()?)
        }
        ethernet::IPV6 => {
            let header = ipv6::header(frame, start).ok()?;
            let packet = ipv6::packet(header);
            if is_extension(packet.protocol) {
                return None;
            }
            (packet, ipv6::body(frame, start, header).ok()?)
        }
        _ => return None,
    };
    transport::parse(frame, body.start, body.end, &mut packet).ok()?;
    Some(packet)
}

/// Where a packet ends: at its declared length, which padding may follow. A declared zero stands for
/// the rest of the frame: so the kernel itself writes packets above 64 KiB (BIG TCP).
#[inline(always)]
fn end(frame: &Frame, start: usize, declared: usize) -> Result<usize, Reason> {
    if declared == 0 {
        return Ok(frame.len());
    }
    let end = start + declared;
    if end > frame.len() {
        Err(Reason::Truncated)
    } else {
        Ok(end)
    }
}
