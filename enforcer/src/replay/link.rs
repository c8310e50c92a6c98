//! Link types of recordings, each made into the Ethernet frame that the programs read.

use enforcer_common::verdict::Direction;

use super::recording::RecordingError;

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;

const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
/// `sll_pkttype` of what the node itself sent.
const OUTGOING: u8 = 4;

/// What a recorded packet begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// `LINKTYPE_ETHERNET`.
    Ethernet,
    /// An IP header (`LINKTYPE_RAW`, `LINKTYPE_IPV4`, `LINKTYPE_IPV6`).
    Ip,
    /// `LINKTYPE_LINUX_SLL`, as `tcpdump -i any` records.
    Cooked,
    /// `LINKTYPE_LINUX_SLL2`.
    Cooked2,
}

impl Link {
    /// By its number (<https://www.tcpdump.org/linktypes.html>).
    ///
    /// # Errors
    /// It is not taken.
    pub fn of(number: i32) -> Result<Self, RecordingError> {
        match number {
            1 => Ok(Self::Ethernet),
            101 | 228 | 229 => Ok(Self::Ip),
            113 => Ok(Self::Cooked),
            276 => Ok(Self::Cooked2),
            number => Err(RecordingError::Link(number)),
        }
    }

    /// Bytes in front of the network header.
    #[must_use]
    pub const fn header(self) -> usize {
        match self {
            Self::Ethernet => ETHERNET,
            Self::Ip => 0,
            Self::Cooked => 16,
            Self::Cooked2 => 20,
        }
    }

    /// Writes the packet into `frame` as Ethernet. What the packet says of its direction, if it does.
    /// `None`: it is cut off within the link's header.
    pub fn write(self, packet: &[u8], frame: &mut Vec<u8>) -> Option<Option<Direction>> {
        frame.clear();
        let rest = packet.get(self.header()..)?;
        let (kind, outgoing) = match self {
            Self::Ethernet => {
                frame.extend_from_slice(packet);
                return Some(None);
            }
            Self::Ip => (if rest.first()? >> 4 == 6 { IPV6 } else { IPV4 }, None),
            Self::Cooked => ([packet[14], packet[15]], Some(packet[1])),
            Self::Cooked2 => ([packet[0], packet[1]], Some(packet[10])),
        };
        frame.extend_from_slice(&[0; ETHERNET - 2]);
        frame.extend_from_slice(&kind);
        frame.extend_from_slice(rest);
        Some(outgoing.map(|kind| {
            if kind == OUTGOING {
                Direction::Egress
            } else {
                Direction::Ingress
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_link_comes_to_the_same_frame() {
        let ip = [0x45, 1, 2, 3];
        let ethernet = [&[0; 12][..], &IPV4, &ip].concat();
        let cooked = [&[0, 4, 0, 1, 0, 6, 1, 2, 3, 4, 5, 6, 0, 0][..], &IPV4, &ip].concat();
        let cooked2 = [
            &IPV4[..],
            &[0, 0, 0, 0, 0, 2, 0, 1, 4, 6, 1, 2, 3, 4, 5, 6, 0, 0],
            &ip,
        ]
        .concat();
        let mut frame = Vec::new();
        for (link, packet, direction) in [
            (Link::Ethernet, &ethernet[..], None),
            (Link::Ip, &ip, None),
            (Link::Cooked, &cooked, Some(Direction::Egress)),
            (Link::Cooked2, &cooked2, Some(Direction::Egress)),
        ] {
            assert_eq!(link.write(packet, &mut frame), Some(direction), "{link:?}");
            assert_eq!(frame, ethernet, "{link:?}");
            for short in 0..link.header() {
                assert_eq!(link.write(&packet[..short], &mut frame), None, "{link:?} {short}");
            }
        }
        assert_eq!(Link::Ip.write(&[0x60], &mut frame), Some(None));
        assert_eq!(frame[12..], [0x86, 0xdd, 0x60]);
    }

    #[test]
    fn other_link_types_are_refused() {
        for number in [0, 105, 127, 147, 0x1_0001] {
            assert!(Link::of(number).is_err(), "{number}");
        }
    }
}
