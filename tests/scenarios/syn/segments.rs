//! SYNs and what answers them.

use std::net::IpAddr;

use lab::frame::{IPV4, IPV6, checksum, layers, pseudo_sum, sum};

pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;
pub const TCP: u8 = 6;

/// The client's port in all of them.
pub const FROM: u16 = 40_000;
/// The client's initial sequence number.
pub const SEQUENCE: u32 = 0x8000_fffe;

/// A segment of the client with a correct checksum.
#[derive(Clone, Debug)]
pub struct Segment {
    pub client: IpAddr,
    pub node: IpAddr,
    pub port: u16,
    pub flags: u8,
    pub sequence: u32,
    pub acknowledged: u32,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
    pub tags: Vec<u16>,
}

impl Segment {
    pub fn packet(&self) -> Vec<u8> {
        let mut segment = [FROM.to_be_bytes(), self.port.to_be_bytes()].concat();
        segment.extend(self.sequence.to_be_bytes());
        segment.extend(self.acknowledged.to_be_bytes());
        let words = 5 + self.options.len() as u8 / 4;
        segment.extend([words << 4, self.flags, 0xfa, 0xf0, 0, 0, 0, 0]);
        segment.extend(&self.options);
        segment.extend(&self.payload);
        let pseudo = pseudo_sum(self.client, self.node, TCP, segment.len() as u16);
        let sum = checksum(sum(&segment) + pseudo);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        layers::packet(self.client, self.node, TCP, &segment)
    }

    pub fn frame(&self) -> Vec<u8> {
        let kind = if self.client.is_ipv4() {
            layers::TYPE_IPV4
        } else {
            layers::TYPE_IPV6
        };
        layers::ethernet(&self.tags, kind, &self.packet())
    }
}

/// A SYN-ACK, taken apart; all that every answer must have has been checked.
#[derive(Debug)]
pub struct Answer {
    pub cookie: u32,
    pub acknowledged: u32,
    pub mss: Option<u16>,
    pub scale: Option<u8>,
    pub sack: bool,
    /// Its own timestamp, and the one that it echoes.
    pub timestamps: Option<(u32, u32)>,
}

impl Answer {
    /// Takes apart what answers `syn`.
    pub fn read(syn: &Segment, frame: &[u8]) -> Self {
        let asked = syn.frame();
        assert_eq!(
            (&frame[..6], &frame[6..12]),
            (&asked[6..12], &asked[..6]),
            "stations"
        );
        let start = 14 + syn.tags.len() * 4;
        assert_eq!(frame[12..start], asked[12..start], "tags and type");
        assert!(
            frame.len() >= 60,
            "shorter than Ethernet's least: {}",
            frame.len()
        );
        let packet = &frame[start..];
        let segment = if syn.client.is_ipv4() {
            let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
            assert_eq!(packet[0], 0x45);
            assert_eq!(checksum(sum(&packet[..IPV4])), 0, "IPv4 checksum");
            assert_eq!((packet[6], packet[8], packet[9]), (0x40, 64, TCP));
            &packet[IPV4..length]
        } else {
            let length = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
            assert_eq!((packet[0] >> 4, packet[6], packet[7]), (6, TCP, 64));
            &packet[IPV6..IPV6 + length]
        };
        assert_eq!(addresses(packet), (syn.node, syn.client));
        let pseudo = pseudo_sum(syn.node, syn.client, TCP, segment.len() as u16);
        assert_eq!(checksum(sum(segment) + pseudo), 0, "TCP checksum");
        let be16 = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
        assert_eq!((be16(0), be16(2)), (syn.port, FROM), "ports");
        assert_eq!(segment[13], SYN | ACK);
        assert_eq!(usize::from(segment[12] >> 4) * 4, segment.len(), "no payload");
        assert!(be16(14) > 0, "a window of zero");
        let mut answer = Self {
            cookie: be32(segment, 4),
            acknowledged: be32(segment, 8),
            mss: None,
            scale: None,
            sack: false,
            timestamps: None,
        };
        answer.read_options(&segment[20..]);
        answer
    }

    fn read_options(&mut self, mut options: &[u8]) {
        loop {
            options = match options {
                [] | [0, ..] => return,
                [1, rest @ ..] => rest,
                [2, 4, high, low, rest @ ..] => {
                    self.mss = Some(u16::from_be_bytes([*high, *low]));
                    rest
                }
                [3, 3, scale, rest @ ..] => {
                    self.scale = Some(*scale);
                    rest
                }
                [4, 2, rest @ ..] => {
                    self.sack = true;
                    rest
                }
                [8, 10, rest @ ..] => {
                    self.timestamps = Some((be32(rest, 0), be32(rest, 4)));
                    &rest[8..]
                }
                other => panic!("unknown options: {other:02x?}"),
            };
        }
    }
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn addresses(packet: &[u8]) -> (IpAddr, IpAddr) {
    if packet[0] >> 4 == 4 {
        let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
        (address(12), address(16))
    } else {
        let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
        (address(8), address(24))
    }
}
