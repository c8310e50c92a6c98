//! Stage 1: what the packet is. Ethernet, up to two VLAN tags, IPv4 or IPv6, transport.

pub mod address;
pub mod ethernet;
mod ipv4;
mod ipv6;
mod transport;

use enforcer_common::{
    layout::{Address, traffic},
    verdict::Reason,
};
pub use ipv6::is_extension;

use self::address::{address, is_mapped, words};
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

/// What a frame carries.
pub enum Parsed {
    /// IPv4 or IPv6.
    Ip(Packet),
    /// ARP.
    Arp,
    /// Anything else: its type, or its length by IEEE 802.3.
    Other(u16),
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

/// Parses a frame; an error is the reason to drop it.
#[inline(always)]
pub fn parse(frame: &Frame) -> Result<Parsed, Reason> {
    let (kind, offset) = ethernet::parse(frame)?;
    match kind {
        ethernet::IPV4 => ipv4::parse(frame, offset).map(Parsed::Ip),
        ethernet::IPV6 => ipv6::parse(frame, offset).map(Parsed::Ip),
        ethernet::ARP => Ok(Parsed::Arp),
        other => Ok(Parsed::Other(other)),
    }
}

/// Where a frame goes, if it has a whole IP header, whatever is wrong behind that.
#[inline(always)]
pub fn destination(frame: &Frame) -> Option<Address> {
    let (kind, offset) = ethernet::parse(frame).ok()?;
    match kind {
        ethernet::IPV4 => ipv4::destination(frame, offset),
        ethernet::IPV6 => ipv6::destination(frame, offset),
        _ => None,
    }
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
