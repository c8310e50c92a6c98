//! Packets put together from their parts, right and wrong.

use std::net::IpAddr;

use super::addresses::{RECEIVER_MAC, SENDER_MAC};
use crate::frame::{checksum, pseudo_sum, sum};

pub const HOP_BY_HOP: u8 = 0;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const AUTHENTICATION: u8 = 51;
pub const DESTINATION: u8 = 60;

pub const MORE_V4: u16 = 0x2000;

/// Both ends of a packet, of one family.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    pub source: IpAddr,
    pub destination: IpAddr,
}

impl Ends {
    pub fn ipv4(self) -> bool {
        self.source.is_ipv4()
    }
}

/// An Ethernet header with tags (type, and priority with id), and what follows.
pub fn framed(tags: &[(u16, u16)], kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [RECEIVER_MAC, SENDER_MAC].concat();
    for (kind, id) in tags {
        frame.extend(kind.to_be_bytes());
        frame.extend(id.to_be_bytes());
    }
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An IPv4 header with `options`, in whole words, and its payload.
pub fn v4(ends: Ends, protocol: u8, (id, fragment): (u16, u16), options: &[u8], payload: &[u8]) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (ends.source, ends.destination) else {
        return Vec::new();
    };
    let words = 5 + options.len() / 4;
    let mut packet = vec![0x40 | words as u8, 0];
    packet.extend(((words * 4 + payload.len()) as u16).to_be_bytes());
    packet.extend(id.to_be_bytes());
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(options);
    sum_v4(&mut packet);
    packet.extend(payload);
    packet
}

/// Writes the checksum of the IPv4 header that a packet begins with.
pub fn sum_v4(packet: &mut [u8]) {
    let length = usize::from(packet[0] & 15) * 4;
    let Some(header) = packet.get_mut(..length).filter(|header| header.len() >= 20) else {
        return;
    };
    header[10..12].fill(0);
    let sum = checksum(sum(header));
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// An IPv6 header whose next header is `next`, and its payload.
pub fn v6(ends: Ends, next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (ends.source, ends.destination) else {
        return Vec::new();
    };
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, hops]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// Extension headers before `payload`, each of a kind and with all its bytes; the next headers are filled in.
/// Also the kind of the first.
pub fn chained(extensions: &[(u8, Vec<u8>)], protocol: u8, payload: &[u8]) -> (u8, Vec<u8>) {
    let mut bytes = payload.to_vec();
    let mut next = protocol;
    for (kind, header) in extensions.iter().rev() {
        let mut header = header.clone();
        header[0] = next;
        header.extend(bytes);
        bytes = header;
        next = *kind;
    }
    (next, bytes)
}

/// Writes a transport's checksum, where `protocol` is one that has one.
pub fn sum_transport(ends: Ends, protocol: u8, segment: &mut [u8]) {
    let (at, pseudo) = match protocol {
        6 => (16, true),
        17 => (6, true),
        1 => (2, false),
        58 => (2, true),
        _ => return,
    };
    if segment.len() < at + 2 {
        return;
    }
    segment[at..at + 2].fill(0);
    let pseudo = if pseudo {
        pseudo_sum(ends.source, ends.destination, protocol, segment.len() as u16)
    } else {
        0
    };
    let found = checksum(sum(segment) + pseudo);
    let found = if protocol == 17 && found == 0 {
        0xffff
    } else {
        found
    };
    segment[at..at + 2].copy_from_slice(&found.to_be_bytes());
}
