//! What a frame is, read a second time: slices and bounds instead of offsets, written from the RFCs and
//! from what the policy language promises.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use enforcer_common::verdict::Reason;

/// What the reader takes a frame for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    Arp,
    Other,
    Opaque,
    Refused(Reason),
    Packet(Packet),
}

/// What policies go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    /// Source and destination; zero where there are none.
    pub ports: (u16, u16),
    pub later_fragment: bool,
    /// A SYN without ACK; or a datagram, as long as none of its flow has been admitted.
    pub opens_connection: bool,
    pub neighbour_discovery: bool,
}

/// What is in front of the transport.
struct Envelope<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    hops: u8,
    fragment: bool,
    later_fragment: bool,
    body: &'a [u8],
}

/// Reads a frame of at least 14 bytes.
///
/// # Panics
/// If it is shorter than two Ethernet addresses.
#[must_use]
pub fn read(frame: &[u8]) -> Reading {
    let (kind, packet) = match untagged(frame) {
        Ok(inner) => inner,
        Err(reason) => return Reading::Refused(reason),
    };
    let envelope = match kind {
        0x0806 => return Reading::Arp,
        0x0800 => ipv4(packet),
        0x86dd => ipv6(packet),
        0x8847 | 0x8848 | 0x8863 | 0x8864 | 0x88e5 => return Reading::Opaque,
        _ => return Reading::Other,
    };
    match envelope.and_then(|envelope| transport(&envelope)) {
        Ok(packet) => Reading::Packet(packet),
        Err(reason) => Reading::Refused(reason),
    }
}

fn first(bytes: &[u8], count: usize) -> Result<&[u8], Reason> {
    bytes.get(..count).ok_or(Reason::Truncated)
}

fn number(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn untagged(frame: &[u8]) -> Result<(u16, &[u8]), Reason> {
    let mut rest = &frame[12..];
    let mut tags = 0;
    while matches!(number(first(rest, 2)?, 0), 0x8100 | 0x88a8 | 0x9100) {
        // The rest of the ninth may be cut off: it is not looked at.
        if tags == 8 {
            return Err(Reason::VlanTags);
        }
        tags += 1;
        rest = rest.get(4..).ok_or(Reason::Truncated)?;
    }
    Ok((number(first(rest, 2)?, 0), &rest[2..]))
}

/// The packet without what follows its declared length. Zero: all there is.
fn declared(packet: &[u8], length: usize) -> Result<&[u8], Reason> {
    if length == 0 {
        Ok(packet)
    } else {
        first(packet, length)
    }
}

fn ipv4(packet: &[u8]) -> Result<Envelope<'_>, Reason> {
    let header = first(packet, 20)?;
    let length = usize::from(header[0] % 16) * 4;
    let total = usize::from(number(header, 2));
    if header[0] / 16 != 4 || length < 20 || (1..length).contains(&total) {
        return Err(Reason::Malformed);
    }
    let address = |at| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
    if address(12).is_multicast() || address(12).is_broadcast() {
        return Err(Reason::Martian);
    }
    let fragment = number(header, 6);
    let mut envelope = Envelope {
        source: address(12).into(),
        destination: address(16).into(),
        protocol: header[9],
        hops: header[8],
        fragment: fragment & 0x3fff != 0,
        later_fragment: fragment & 0x1fff != 0,
        body: declared(packet, total)?.get(length..).ok_or(Reason::Truncated)?,
    };
    look_through(&mut envelope, |protocol| protocol == 51)?;
    Ok(envelope)
}

fn ipv6(packet: &[u8]) -> Result<Envelope<'_>, Reason> {
    let header = first(packet, 40)?;
    if header[0] / 16 != 6 {
        return Err(Reason::Malformed);
    }
    let address = |at: usize| {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&header[at..at + 16]);
        Ipv6Addr::from(bytes)
    };
    let (source, destination) = (address(8), address(24));
    if source.is_multicast() || source.to_ipv4_mapped().is_some() || destination.to_ipv4_mapped().is_some() {
        return Err(Reason::Martian);
    }
    let mut envelope = Envelope {
        source: source.into(),
        destination: destination.into(),
        protocol: header[6],
        hops: header[7],
        fragment: false,
        later_fragment: false,
        body: declared(&packet[40..], usize::from(number(header, 4)))?,
    };
    look_through(&mut envelope, is_extension)?;
    Ok(envelope)
}

/// Takes off what comes between the IP header and the transport.
fn look_through(envelope: &mut Envelope<'_>, comes_between: impl Fn(u8) -> bool) -> Result<(), Reason> {
    let mut looked_through = 0;
    while !envelope.later_fragment && comes_between(envelope.protocol) {
        if looked_through == 64 {
            return Err(Reason::ExtensionHeaders);
        }
        looked_through += 1;
        open(envelope)?;
    }
    Ok(())
}

fn is_extension(protocol: u8) -> bool {
    [0, 43, 44, 51, 60, 135, 139, 140].contains(&protocol)
}

/// Takes one extension header off.
fn open(envelope: &mut Envelope<'_>) -> Result<(), Reason> {
    let header = first(envelope.body, 8)?;
    let length = match envelope.protocol {
        44 => {
            let offset = number(header, 2) / 8;
            envelope.fragment = true;
            envelope.later_fragment = offset > 0;
            8
        }
        51 => 4 * usize::from(header[1]) + 8,
        _ => 8 * usize::from(header[1]) + 8,
    };
    envelope.protocol = header[0];
    envelope.body = envelope.body.get(length..).ok_or(Reason::Truncated)?;
    Ok(())
}

fn transport(envelope: &Envelope<'_>) -> Result<Packet, Reason> {
    let Envelope {
        source,
        destination,
        protocol,
        hops,
        fragment,
        later_fragment,
        body,
    } = *envelope;
    let mut packet = Packet {
        source,
        destination,
        protocol,
        ports: (0, 0),
        later_fragment,
        opens_connection: false,
        neighbour_discovery: false,
    };
    if later_fragment {
        return Ok(packet);
    }
    match protocol {
        6 => {
            let header = first(body, 20)?;
            let length = usize::from(header[12] / 16) * 4;
            if length < 20 {
                return Err(Reason::Malformed);
            }
            first(body, length)?;
            packet.ports = (number(header, 0), number(header, 2));
            packet.opens_connection = header[13] & 0x12 == 0x02;
        }
        17 => {
            let header = first(body, 8)?;
            let length = usize::from(number(header, 4));
            if (1..8).contains(&length) || (!fragment && length > body.len()) {
                return Err(Reason::Malformed);
            }
            packet.ports = (number(header, 0), number(header, 2));
            packet.opens_connection = true;
        }
        1 => drop(first(body, 8)?),
        58 => {
            let kind = first(body, 4)?[0];
            let near = source.is_ipv6() && hops == 255 && !fragment;
            packet.neighbour_discovery = near && (133..=137).contains(&kind);
        }
        _ => {}
    }
    Ok(packet)
}
