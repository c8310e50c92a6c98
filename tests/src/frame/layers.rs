//! Frames put together layer by layer, also such as no sender means to send: tags, options, fragments,
//! extension headers, lengths that lie. Transport checksums are left zero: the stack never sees these.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{IPV4, checksum, put16, sum};

/// EtherType of IPv4.
pub const TYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const TYPE_IPV6: u16 = 0x86dd;

const LOWEST_TTL_OF_A_SENDER: u8 = 64;

/// An Ethernet frame of `kind` behind tags, each a type (`0x8100`, `0x88a8`, `0x9100`) with VLAN 7.
#[must_use]
pub fn ethernet(tags: &[u16], kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend([0, 7]);
    }
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The frame of an IP packet of either family, which its first byte tells.
#[must_use]
pub fn carried(packet: &[u8]) -> Vec<u8> {
    let ipv6 = packet.first().is_some_and(|first| first >> 4 == 6);
    ethernet(&[], if ipv6 { TYPE_IPV6 } else { TYPE_IPV4 }, packet)
}

/// A packet between two addresses of one family, with `segment` of `protocol`.
///
/// # Panics
/// If the families differ.
#[must_use]
pub fn packet(from: IpAddr, to: IpAddr, protocol: u8, segment: &[u8]) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => V4::new(from, to, protocol).packet(segment),
        (IpAddr::V6(from), IpAddr::V6(to)) => V6::new(from, to, protocol).packet(segment),
        _ => panic!("{from} and {to} are of different families"),
    }
}

/// An IPv4 header (RFC 791).
#[derive(Clone, Copy, Debug)]
pub struct V4 {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub protocol: u8,
    pub ttl: u8,
    /// The first byte's upper half.
    pub version: u8,
    /// Words of the header, as it says. `None`: as they are.
    pub words: Option<u8>,
    /// Words of options, up to ten: no-operations.
    pub options: u8,
    /// The total length, as it says. `None`: as it is.
    pub total: Option<u16>,
    /// Flags and offset of a fragment: `0x2000` says that more follow; the offset is in 8 bytes.
    pub fragment: u16,
}

impl V4 {
    /// A plain header.
    #[must_use]
    pub fn new(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8) -> Self {
        Self {
            source,
            destination,
            protocol,
            ttl: LOWEST_TTL_OF_A_SENDER,
            version: 4,
            words: None,
            options: 0,
            total: None,
            fragment: 0,
        }
    }

    /// The header and `segment`.
    #[must_use]
    pub fn packet(&self, segment: &[u8]) -> Vec<u8> {
        let length = IPV4 + usize::from(self.options) * 4;
        let words = self.words.unwrap_or(5 + self.options);
        let total = self.total.unwrap_or((length + segment.len()) as u16);
        let mut packet = vec![self.version << 4 | words, 0];
        packet.extend(total.to_be_bytes());
        packet.extend([0, 9]);
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([self.ttl, self.protocol, 0, 0]);
        packet.extend(self.source.octets());
        packet.extend(self.destination.octets());
        packet.resize(length, 1);
        let sum = checksum(sum(&packet));
        put16(&mut packet, 10, sum);
        packet.extend(segment);
        packet
    }
}

/// An IPv6 header and extension headers (RFC 8200).
#[derive(Clone, Debug)]
pub struct V6 {
    pub source: Ipv6Addr,
    pub destination: Ipv6Addr,
    /// Of the transport, behind all extension headers.
    pub protocol: u8,
    pub hop_limit: u8,
    /// The first byte's upper half.
    pub version: u8,
    /// The payload length, as it says. `None`: as it is.
    pub length: Option<u16>,
    /// The kind and the bytes of each; the first two bytes (next header, length) are filled in.
    pub extensions: Vec<(u8, Vec<u8>)>,
}

impl V6 {
    /// A plain header.
    #[must_use]
    pub fn new(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8) -> Self {
        Self {
            source,
            destination,
            protocol,
            hop_limit: LOWEST_TTL_OF_A_SENDER,
            version: 6,
            length: None,
            extensions: Vec::new(),
        }
    }

    /// With another extension header of `kind`, `bytes` long in all: a multiple of eight, or of four for
    /// authentication.
    #[must_use]
    pub fn extended(mut self, kind: u8, bytes: usize) -> Self {
        self.extensions.push((kind, vec![0; bytes]));
        self
    }

    /// With a fragment header: `field` has the offset in its upper 13 bits, and 1 says that more follow.
    #[must_use]
    pub fn fragment(mut self, field: u16) -> Self {
        let [high, low] = field.to_be_bytes();
        self.extensions
            .push((FRAGMENT, vec![0, 0, high, low, 0, 0, 0, 9]));
        self
    }

    /// The headers and `segment`.
    #[must_use]
    pub fn packet(&self, segment: &[u8]) -> Vec<u8> {
        let mut chain = Vec::new();
        for (index, (kind, bytes)) in self.extensions.iter().enumerate() {
            let mut bytes = bytes.clone();
            bytes[0] = self
                .extensions
                .get(index + 1)
                .map_or(self.protocol, |(next, _)| *next);
            bytes[1] = match *kind {
                FRAGMENT => 0,
                AUTHENTICATION => (bytes.len() / 4 - 2) as u8,
                _ => (bytes.len() / 8 - 1) as u8,
            };
            chain.extend(bytes);
        }
        let length = self.length.unwrap_or((chain.len() + segment.len()) as u16);
        let first = self.extensions.first().map_or(self.protocol, |(kind, _)| *kind);
        let mut packet = vec![self.version << 4, 0, 0, 0];
        packet.extend(length.to_be_bytes());
        packet.extend([first, self.hop_limit]);
        packet.extend(self.source.octets());
        packet.extend(self.destination.octets());
        packet.extend(chain);
        packet.extend(segment);
        packet
    }
}

const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;

/// A TCP header (RFC 9293) of `words`, with zeros for options, and `flags`.
#[must_use]
pub fn tcp(from: u16, to: u16, words: u8, flags: u8) -> Vec<u8> {
    let mut segment = super::tcp([from.to_be_bytes(), to.to_be_bytes()].concat(), flags);
    segment[12] = words << 4;
    segment.resize(segment.len().max(usize::from(words) * 4), 0);
    segment
}

/// A UDP header (RFC 768) that says `length`, and `bytes` of zeros.
#[must_use]
pub fn udp(from: u16, to: u16, length: u16, bytes: usize) -> Vec<u8> {
    let mut segment = [from.to_be_bytes(), to.to_be_bytes(), length.to_be_bytes()].concat();
    segment.resize(8 + bytes, 0);
    segment
}

/// An ICMP or ICMPv6 message of `kind`, `bytes` long in all.
#[must_use]
pub fn icmp(kind: u8, bytes: usize) -> Vec<u8> {
    let mut segment = vec![kind];
    segment.resize(bytes, 0);
    segment
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Link, Payload, build};

    #[test]
    fn plain_packets_are_those_of_the_builder() {
        let link = Link {
            from: [2, 0, 0, 0, 0, 1],
            to: [2, 0, 0, 0, 0, 2],
        };
        for (from, to) in [
            ("192.0.2.1:4000", "192.0.2.2:443"),
            ("[2001:db8::1]:4000", "[2001:db8::2]:443"),
        ] {
            let (from, to): (std::net::SocketAddr, std::net::SocketAddr) =
                (from.parse().unwrap(), to.parse().unwrap());
            let mut built = build(link, from, to, Payload::TcpSyn).unwrap();
            let mut layered = carried(&packet(from.ip(), to.ip(), 6, &tcp(from.port(), to.port(), 5, 2)));
            let start = built.len() - 20;
            put16(&mut built, start + 16, 0);
            if from.is_ipv4() {
                // The builder forbids fragments and has no identification.
                for frame in [&mut built, &mut layered] {
                    frame[18..22].fill(0);
                    frame[24..26].fill(0);
                }
            }
            assert_eq!(built, layered);
        }
    }

    #[test]
    fn extension_headers_form_a_chain() {
        let packet = V6::new(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST, 17)
            .extended(0, 8)
            .fragment(1)
            .extended(51, 12)
            .packet(&udp(1, 2, 8, 0));
        assert_eq!(packet.len(), 40 + 8 + 8 + 12 + 8);
        assert_eq!((packet[6], packet[40], packet[48], packet[56]), (0, 44, 51, 17));
        assert_eq!(usize::from(packet[5]), packet.len() - 40);
    }
}
