//! Answers to what is dropped, taken apart: all that every answer must have is checked here.

use std::{net::IpAddr, time::Duration};

use enforcer_common::verdict::{Direction, Reason, Verdict};
use lab::frame::{checksum, layers::tcp, pseudo_sum, sum};

use crate::{
    packets::TCP,
    rig::{Rig, moved, place},
};

pub const RST: u8 = 0x04;
pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;

/// A segment with a sequence number, an acknowledgement, options and data.
pub fn segment(flags: u8, words: u8, data: usize) -> Vec<u8> {
    let mut segment = tcp(40_000, 443, words, flags);
    segment[4..8].copy_from_slice(&0xffff_fff0_u32.to_be_bytes());
    segment[8..12].copy_from_slice(&0x1234_5678_u32.to_be_bytes());
    segment.resize(segment.len() + data, 0xab);
    segment
}

/// What is in an IP packet without options: source, destination, protocol, payload. Its checksum is right.
fn opened(packet: &[u8]) -> (IpAddr, IpAddr, u8, Vec<u8>) {
    let be16 = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    if packet[0] >> 4 == 4 {
        assert_eq!(packet[0], 0x45);
        assert_eq!(checksum(sum(&packet[..20])), 0, "IPv4 checksum");
        assert_eq!((packet[6], packet[8]), (0x40, 64), "do not fragment; TTL");
        let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
        (address(12), address(16), packet[9], packet[20..be16(2)].to_vec())
    } else {
        assert_eq!((packet[0], packet[7]), (0x60, 64), "version; hop limit");
        let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
        (
            address(8),
            address(24),
            packet[6],
            packet[40..40 + be16(4)].to_vec(),
        )
    }
}

/// Takes the answer out of its frame, whose link header must be the asking one's, turned round.
fn unframed<'a>(asked: &[u8], tags: usize, answer: &'a [u8]) -> &'a [u8] {
    let start = 14 + tags * 4;
    assert_eq!(
        (&answer[..6], &answer[6..12]),
        (&asked[6..12], &asked[..6]),
        "stations"
    );
    assert_eq!(answer[12..start], asked[12..start], "tags and type");
    &answer[start..]
}

/// `answer` is the reset to `asked`: sequence number, acknowledgement and flags as given, all else as it is in
/// every reset.
pub fn expect_reset(
    what: &str,
    asked: &[u8],
    tags: usize,
    answer: &[u8],
    (sequence, acknowledged, flags): (u32, u32, u8),
) {
    let (source, destination, ..) = addresses(&asked[14 + tags * 4..]);
    let packet = unframed(asked, tags, answer);
    let (from, to, protocol, got) = opened(packet);
    assert_eq!((from, to, protocol), (destination, source, TCP), "{what}");
    let pseudo = pseudo_sum(from, to, TCP, got.len() as u16);
    assert_eq!(checksum(sum(&got) + pseudo), 0, "{what}: TCP checksum");
    let mut expected = tcp(443, 40_000, 5, flags);
    expected[4..8].copy_from_slice(&sequence.to_be_bytes());
    expected[8..12].copy_from_slice(&acknowledged.to_be_bytes());
    expected[14..16].fill(0);
    expected[16..18].copy_from_slice(&got[16..18]);
    assert_eq!(got, expected, "{what}");
    assert!(answer.len() <= asked.len(), "{what}: longer than what it answers");
    let end = if from.is_ipv4() { 40 } else { 60 };
    assert!(packet[end..].iter().all(|byte| *byte == 0), "{what}: padding");
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

/// `answer` says that `asked` is administratively prohibited, and quotes `quoted` bytes of it.
pub fn expect_unreachable(what: &str, asked: &[u8], tags: usize, answer: &[u8], quoted: usize) {
    let start = 14 + tags * 4;
    let (source, destination) = addresses(&asked[start..]);
    let packet = unframed(asked, tags, answer);
    let (from, to, protocol, got) = opened(packet);
    assert_eq!((from, to), (destination, source), "{what}");
    let (own, kind, code, pseudo) = match from {
        IpAddr::V4(_) => (ICMP, 3, 13, 0),
        IpAddr::V6(_) => (ICMPV6, 1, 1, pseudo_sum(from, to, ICMPV6, got.len() as u16)),
    };
    assert_eq!((protocol, got[0], got[1]), (own, kind, code), "{what}");
    assert_eq!(checksum(sum(&got) + pseudo), 0, "{what}: checksum");
    assert_eq!(got[4..8], [0; 4], "{what}: unused");
    assert_eq!(got[8..], asked[start..start + quoted], "{what}: quoted");
    let header = if from.is_ipv4() { 28 } else { 48 };
    assert_eq!(answer.len(), start + header + quoted, "{what}");
    assert!(answer.len() <= asked.len() + header, "{what}: it amplifies");
}

/// Hands a frame over: the one that goes back, which must be counted as told.
pub fn answered(rig: &mut Rig, asked: &[u8], reason: Reason, policy: Option<&'static str>) -> Vec<u8> {
    let before = rig.counts();
    // A moment later each: there are so many answers in a second.
    rig.later(Duration::from_millis(2));
    let (verdict, answer) = rig.offline.arrive(asked).unwrap();
    let moved: Vec<_> = moved(&before, &rig.counts()).into_iter().collect();
    assert_eq!(verdict, Verdict::Reset);
    let [(counted, counter)] = moved.as_slice() else {
        panic!("{moved:?}");
    };
    assert_eq!(
        *counted,
        place(policy, Direction::Ingress, reason, Verdict::Reset)
    );
    assert_eq!((counter.packets, counter.bytes), (1, asked.len() as u64));
    answer
}
