//! Ethernet frames with correct lengths and checksums (RFC 791, 8200, 768, 9293, 792, 4443, 1071).

pub mod layers;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Bytes of an IPv4 header without options.
pub const IPV4: usize = 20;
/// Bytes of an IPv6 header.
pub const IPV6: usize = 40;

const TTL: u8 = 64;
const TCP_WINDOW: u16 = 64_240;
const ECHO_REQUEST_V4: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Where a frame goes, below IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    pub from: Mac,
    pub to: Mac,
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A datagram with that many zeros.
    Udp { bytes: usize },
    /// The first segment of a connection, without options.
    TcpSyn,
    /// A segment of a connection that nobody has opened.
    TcpAck,
    /// An echo request with that many zeros.
    Icmp { bytes: usize },
}

/// An error of [`build`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// One end is IPv4, the other IPv6.
    MixedFamilies,
    /// More than an IP packet can carry.
    TooLong,
}

impl std::error::Error for FrameError {}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::MixedFamilies => "source and destination must both be IPv4 or both be IPv6",
            Self::TooLong => "the payload does not fit an IP packet",
        })
    }
}

impl Payload {
    /// The protocol number over `family`.
    #[must_use]
    pub const fn protocol(self, ipv4: bool) -> u8 {
        match self {
            Self::Udp { .. } => 17,
            Self::TcpSyn | Self::TcpAck => 6,
            Self::Icmp { .. } if ipv4 => 1,
            Self::Icmp { .. } => 58,
        }
    }

    /// Where in the segment its checksum is.
    #[must_use]
    pub const fn checksum_at(self) -> usize {
        match self {
            Self::Udp { .. } => 6,
            Self::TcpSyn | Self::TcpAck => 16,
            Self::Icmp { .. } => 2,
        }
    }

    /// The segment, with its checksum zero.
    fn segment(self, from: u16, to: u16, ipv4: bool) -> Result<Vec<u8>, FrameError> {
        let ports = [from.to_be_bytes(), to.to_be_bytes()].concat();
        Ok(match self {
            Self::Udp { bytes } => {
                let length = u16::try_from(8 + bytes).map_err(|_overflow| FrameError::TooLong)?;
                let mut segment = ports;
                segment.extend(length.to_be_bytes());
                segment.resize(8 + bytes, 0);
                segment
            }
            Self::TcpSyn => tcp(ports, 0x02),
            Self::TcpAck => tcp(ports, 0x10),
            Self::Icmp { bytes } => {
                let kind = if ipv4 { ECHO_REQUEST_V4 } else { ECHO_REQUEST_V6 };
                let mut segment = vec![kind, 0, 0, 0, 0, 1, 0, 1];
                segment.resize(8 + bytes, 0);
                segment
            }
        })
    }
}

/// Builds a frame. The ports of `from` and `to` are left out where the protocol has none.
///
/// # Errors
/// If the families differ or the payload is too long.
pub fn build(link: Link, from: SocketAddr, to: SocketAddr, payload: Payload) -> Result<Vec<u8>, FrameError> {
    let ipv4 = from.is_ipv4();
    let mut segment = payload.segment(from.port(), to.port(), ipv4)?;
    let length = u16::try_from(segment.len()).map_err(|_overflow| FrameError::TooLong)?;
    let pseudo = pseudo_sum(from.ip(), to.ip(), payload.protocol(ipv4), length);
    // ICMP over IPv4 alone is summed without a pseudo-header.
    let with_pseudo = !(ipv4 && matches!(payload, Payload::Icmp { .. }));
    let sum = checksum(sum(&segment) + if with_pseudo { pseudo } else { 0 });
    let udp = matches!(payload, Payload::Udp { .. });
    let sum = if udp && sum == 0 { 0xffff } else { sum };
    put16(&mut segment, payload.checksum_at(), sum);

    let mut frame = [link.to, link.from].concat();
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            frame.extend([0x08, 0x00]);
            frame.extend(ipv4_header(from, to, payload.protocol(true), length)?);
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            frame.extend([0x86, 0xdd]);
            frame.extend(ipv6_header(from, to, payload.protocol(false), length));
        }
        _ => return Err(FrameError::MixedFamilies),
    }
    frame.extend(segment);
    Ok(frame)
}

/// The sum of the 16-bit words of `bytes`, not folded.
#[must_use]
pub fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum()
}

/// Folds a sum into the Internet checksum (RFC 1071). A correct packet, summed with its checksum, gives 0.
#[must_use]
pub fn checksum(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

/// The sum of the pseudo-header that TCP, UDP and ICMPv6 include.
#[must_use]
pub fn pseudo_sum(from: IpAddr, to: IpAddr, protocol: u8, length: u16) -> u32 {
    let address = |address| match address {
        IpAddr::V4(address) => sum(&Ipv4Addr::octets(&address)),
        IpAddr::V6(address) => sum(&Ipv6Addr::octets(&address)),
    };
    address(from) + address(to) + u32::from(protocol) + u32::from(length)
}

fn tcp(mut ports: Vec<u8>, flags: u8) -> Vec<u8> {
    // Sequence 1, acknowledgement 0, five words of header.
    ports.extend([0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, flags]);
    ports.extend(TCP_WINDOW.to_be_bytes());
    ports.extend([0; 4]);
    ports
}

fn ipv4_header(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, length: u16) -> Result<Vec<u8>, FrameError> {
    let total = length.checked_add(IPV4 as u16).ok_or(FrameError::TooLong)?;
    let mut header = vec![0x45, 0];
    header.extend(total.to_be_bytes());
    // No identification; don't fragment.
    header.extend([0, 0, 0x40, 0, TTL, protocol, 0, 0]);
    header.extend(from.octets());
    header.extend(to.octets());
    let sum = checksum(sum(&header));
    put16(&mut header, 10, sum);
    Ok(header)
}

fn ipv6_header(from: Ipv6Addr, to: Ipv6Addr, protocol: u8, length: u16) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0];
    header.extend(length.to_be_bytes());
    header.extend([protocol, TTL]);
    header.extend(from.octets());
    header.extend(to.octets());
    header
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Link = Link {
        from: [2, 0, 0, 0, 0, 1],
        to: [2, 0, 0, 0, 0, 2],
    };
    const ALL: [Payload; 4] = [
        Payload::Udp { bytes: 3 },
        Payload::TcpSyn,
        Payload::TcpAck,
        Payload::Icmp { bytes: 5 },
    ];

    #[test]
    fn a_header_known_from_elsewhere_has_its_checksum() {
        // The example of RFC 1071, section 3.
        assert_eq!(
            checksum(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])),
            !0xddf2
        );
    }

    #[test]
    fn every_ipv4_frame_sums_to_zero() {
        let (from, to) = (
            "192.0.2.1:4000".parse().unwrap(),
            "192.0.2.2:443".parse().unwrap(),
        );
        for payload in ALL {
            let frame = build(LINK, from, to, payload).unwrap();
            let (header, segment) = frame[ETHERNET..].split_at(IPV4);
            assert_eq!(checksum(sum(header)), 0, "{payload:?}");
            assert_eq!(usize::from(header[3]) + ETHERNET, frame.len(), "{payload:?}");
            let pseudo = match payload {
                Payload::Icmp { .. } => 0,
                _ => pseudo_sum(from.ip(), to.ip(), header[9], segment.len() as u16),
            };
            assert_eq!(checksum(sum(segment) + pseudo), 0, "{payload:?}");
        }
    }

    #[test]
    fn every_ipv6_frame_sums_to_zero() {
        let (from, to) = (
            "[2001:db8::1]:4000".parse().unwrap(),
            "[2001:db8::2]:443".parse().unwrap(),
        );
        for payload in ALL {
            let frame = build(LINK, from, to, payload).unwrap();
            let (header, segment) = frame[ETHERNET..].split_at(IPV6);
            assert_eq!(usize::from(header[5]), segment.len(), "{payload:?}");
            let pseudo = pseudo_sum(from.ip(), to.ip(), header[6], segment.len() as u16);
            assert_eq!(checksum(sum(segment) + pseudo), 0, "{payload:?}");
        }
    }

    #[test]
    fn families_do_not_mix() {
        let (from, to) = ("192.0.2.1:1".parse().unwrap(), "[2001:db8::2]:1".parse().unwrap());
        assert_eq!(
            build(LINK, from, to, Payload::TcpSyn),
            Err(FrameError::MixedFamilies)
        );
    }

    #[test]
    fn a_payload_that_does_not_fit_is_refused() {
        let address = "192.0.2.1:1".parse().unwrap();
        for bytes in [65_535 - 8 - IPV4 + 1, 1 << 20] {
            let built = build(LINK, address, address, Payload::Udp { bytes });
            assert_eq!(built, Err(FrameError::TooLong));
        }
    }
}
