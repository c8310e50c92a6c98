//! Where in a frame the network and transport headers are, as far as replay itself must know: to name
//! sources, and to shorten what is longer than a test run takes. What a packet *is*, the kernel says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use enforcer_common::verdict::Direction;

use super::link::ETHERNET;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const UDP: u8 = 17;

/// VLAN tags that the programs look through.
const TAGS: usize = 8;

/// The IP header of a frame, behind its tags.
fn network(frame: &[u8]) -> Option<(usize, bool)> {
    let mut offset = ETHERNET;
    for _ in 0..=TAGS {
        match frame.get(offset - 2..offset)? {
            [0x08, 0x00] => return Some((offset, true)),
            [0x86, 0xdd] => return Some((offset, false)),
            [0x81, 0x00] | [0x88, 0xa8] | [0x91, 0x00] => offset += 4,
            _ => return None,
        }
    }
    None
}

/// Whether a test run takes the frame: something must be behind the link header, and of what leaves the
/// whole IP header.
#[must_use]
pub fn is_runnable(direction: Direction, frame: &[u8]) -> bool {
    let header = match (direction, frame.get(ETHERNET - 2..ETHERNET)) {
        (Direction::Egress, Some([0x08, 0x00])) => IPV4_HEADER,
        (Direction::Egress, Some([0x86, 0xdd])) => IPV6_HEADER,
        _ => 1,
    };
    frame.len() >= ETHERNET + header
}

/// Who sent the frame, by its IP header.
#[must_use]
pub fn source(frame: &[u8]) -> Option<IpAddr> {
    let (start, ipv4) = network(frame)?;
    if ipv4 {
        let bytes: [u8; 4] = frame.get(start + 12..start + 16)?.try_into().ok()?;
        Some(Ipv4Addr::from(bytes).into())
    } else {
        let bytes: [u8; 16] = frame.get(start + 8..start + 24)?.try_into().ok()?;
        Some(Ipv6Addr::from(bytes).into())
    }
}

/// Shortens a frame to `length` bytes, and makes its lengths say so: zero stands for all there is.
pub fn shorten(frame: &mut Vec<u8>, length: usize) {
    frame.truncate(length);
    let Some((start, ipv4)) = network(frame) else {
        return;
    };
    let Some(header) = frame.get_mut(start..) else {
        return;
    };
    let (at, transport, protocol) = if ipv4 && header.len() >= IPV4_HEADER {
        (2, usize::from(header[0] & 15) * 4, header[9])
    } else if !ipv4 && header.len() >= IPV6_HEADER {
        (4, IPV6_HEADER, header[6])
    } else {
        return;
    };
    header[at..at + 2].fill(0);
    if protocol == UDP
        && let Some(length) = header.get_mut(transport + 4..transport + 6)
    {
        length.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(tags: usize, kind: [u8; 2], packet: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        for _ in 0..tags {
            frame.extend([0x81, 0, 0, 7]);
        }
        frame.extend(kind);
        frame.extend(packet);
        frame
    }

    fn ipv4(protocol: u8) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0x23, 0x28];
        packet.resize(9, 0);
        packet.extend([protocol, 0, 0, 192, 0, 2, 7, 192, 0, 2, 1]);
        packet.extend([0, 1, 0, 2, 0x23, 0x14, 9, 9]);
        packet.resize(9_000, 1);
        packet
    }

    #[test]
    fn sources_are_found_behind_tags() {
        let expected: IpAddr = "192.0.2.7".parse().unwrap();
        for tags in 0..=8 {
            assert_eq!(source(&frame(tags, [8, 0], &ipv4(6))), Some(expected));
        }
        assert_eq!(source(&frame(9, [8, 0], &ipv4(6))), None);
        assert_eq!(source(&frame(0, [8, 6], &ipv4(6))), None);
        assert_eq!(source(&frame(0, [8, 0], &ipv4(6)[..15])), None);
        let mut packet = vec![0x60; 8];
        packet.extend("2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(
            source(&frame(0, [0x86, 0xdd], &packet)),
            Some("2001:db8::7".parse().unwrap())
        );
    }

    #[test]
    fn shortened_lengths_stand_for_all_there_is() {
        for (protocol, udp_length) in [(17, [0, 0]), (6, [0x23, 0x14])] {
            let mut frame = frame(0, [8, 0], &ipv4(protocol));
            shorten(&mut frame, 1_000);
            assert_eq!(frame.len(), 1_000);
            assert_eq!(frame[16..18], [0, 0]);
            assert_eq!(frame[38..40], udp_length);
        }
    }

    #[test]
    fn nothing_is_too_short_to_be_shortened() {
        let whole = frame(1, [8, 0], &ipv4(17));
        for length in 0..60 {
            let mut frame = whole.clone();
            shorten(&mut frame, length);
            assert_eq!(frame.len(), length);
        }
    }
}
