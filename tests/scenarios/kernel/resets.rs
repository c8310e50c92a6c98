//! `action: reset`: the frame that goes back, field by field, and what is never answered.

pub mod answers;

use std::{net::IpAddr, time::Duration};

use enforcer_common::verdict::{Direction, Reason, Verdict};
use lab::frame::layers::{TYPE_IPV4, TYPE_IPV6, carried, ethernet, icmp, packet, udp};

use self::answers::{ICMP, ICMPV6, RST, answered, expect_reset, expect_unreachable, segment};
use crate::{
    packets::{ACK, FAMILIES, NODE_V4, SYN, TCP, UDP, ip, v4, v6},
    rig::{Place, Rig, SECOND, START, document, moved, place},
};

const FIN: u8 = 0x01;
const PUSH: u8 = 0x08;
/// A protocol that the programs know nothing of.
const UNKNOWN: u8 = 253;

/// Answers of one CPU at once.
const BURST: u32 = 100;

const DENIED: &str = "  action: reset\n  deny: [192.0.2.0/24, \"2001:db8:1::/48\"]";

fn frame(tags: &[u16], packet: &[u8]) -> Vec<u8> {
    let kind = if packet[0] >> 4 == 4 { TYPE_IPV4 } else { TYPE_IPV6 };
    ethernet(tags, kind, packet)
}

#[test]
fn segments_are_reset() {
    let Some(mut rig) = Rig::new(&document("p", "enforce", DENIED)) else {
        return;
    };
    // Sequence number 0xfffffff0 of the segment, and all that it takes, is acknowledged; or its own
    // acknowledgement is where the reset lies.
    let (at, acknowledged) = (0xffff_fff0_u32, 0x1234_5678);
    let without_ack = |taken: u32| (0, at.wrapping_add(taken), RST | ACK);
    let rows = [
        ("SYN", segment(SYN, 5, 0), without_ack(1)),
        ("SYN with options", segment(SYN, 10, 0), without_ack(1)),
        ("SYN with data", segment(SYN, 5, 33), without_ack(34)),
        ("SYN and FIN", segment(SYN | FIN, 5, 0), without_ack(2)),
        ("FIN without ACK", segment(FIN, 5, 7), without_ack(8)),
        ("no flag", segment(0, 5, 100), without_ack(100)),
        ("ACK", segment(ACK, 5, 0), (acknowledged, 0, RST)),
        ("data", segment(ACK | PUSH, 8, 1_000), (acknowledged, 0, RST)),
        ("FIN", segment(ACK | FIN, 5, 0), (acknowledged, 0, RST)),
        ("SYN with ACK", segment(SYN | ACK, 15, 0), (acknowledged, 0, RST)),
    ];
    for (client, node) in FAMILIES {
        for tags in [&[][..], &[0x8100], &[0x88a8, 0x8100]] {
            for (what, segment, expected) in &rows {
                let asked = frame(tags, &packet(client, node, TCP, segment));
                let answer = answered(&mut rig, &asked, Reason::Denied, Some("p"));
                let what = format!("{what} from {client} behind {} tags", tags.len());
                expect_reset(&what, &asked, tags.len(), &answer, *expected);
            }
        }
    }
}

#[test]
fn short_frames_are_padded_with_zeros() {
    let Some(mut rig) = Rig::new(&document("p", "enforce", DENIED)) else {
        return;
    };
    let (client, node) = FAMILIES[0];
    // As it comes from a wire: 54 bytes and six that mean nothing.
    let mut asked = frame(&[], &packet(client, node, TCP, &segment(SYN, 5, 0)));
    asked.resize(60, 0xee);
    let answer = answered(&mut rig, &asked, Reason::Denied, Some("p"));
    assert_eq!(answer.len(), 60);
    expect_reset("padded", &asked, 0, &answer, (0, 0xffff_fff1, RST | ACK));
}

#[test]
fn all_else_is_answered_by_icmp() {
    let Some(mut rig) = Rig::new(&document("p", "enforce", DENIED)) else {
        return;
    };
    for (client, node) in FAMILIES {
        let (header, echo, message) = match client {
            IpAddr::V4(_) => (20, 8, ICMP),
            IpAddr::V6(_) => (40, 128, ICMPV6),
        };
        let rows = [
            ("UDP without data", UDP, udp(40_000, 443, 8, 0), 8),
            ("UDP with three bytes", UDP, udp(40_000, 443, 11, 3), 8),
            ("UDP with four", UDP, udp(40_000, 443, 12, 4), 12),
            ("UDP with much", UDP, udp(40_000, 443, 1_008, 1_000), 128 - header),
            ("an echo request", message, icmp(echo, 16), 16),
            ("a protocol that is not known", UNKNOWN, vec![7; 20], 20),
            ("ESP", 50, vec![9; 24], 24),
        ];
        for tags in [&[][..], &[0x8100], &[0x88a8, 0x8100]] {
            for (what, protocol, segment, quoted) in &rows {
                let asked = frame(tags, &packet(client, node, *protocol, segment));
                let answer = answered(&mut rig, &asked, Reason::Denied, Some("p"));
                let what = format!("{what} from {client} behind {} tags", tags.len());
                expect_unreachable(&what, &asked, tags.len(), &answer, header + quoted);
            }
        }
    }
}

#[test]
fn some_packets_are_never_answered() {
    let deny = "  action: reset\n  deny: [0.0.0.0/0, \"::/0\"]";
    let Some(mut rig) = Rig::new(&document("p", "enforce", deny)) else {
        return;
    };
    let between = |from: &str, to: &str| carried(&packet(ip(from), ip(to), UDP, &udp(1, 443, 8, 0)));
    let mut group = carried(&v4(UDP).packet(&udp(1, 443, 8, 0)));
    group[..6].fill(0xff);
    let mut fragment = v4(UDP);
    fragment.fragment = 0x2000;
    let mut later = v4(TCP);
    later.fragment = 1;
    let mut options = v4(TCP);
    options.options = 1;
    let mut endless = v4(UDP);
    endless.total = Some(0);
    let rows = [
        ("a reset", carried(&v4(TCP).packet(&segment(RST, 5, 0)))),
        (
            "a reset, IPv6",
            carried(&v6(TCP).packet(&segment(RST | ACK, 5, 0))),
        ),
        ("an ICMP error", carried(&v4(ICMP).packet(&icmp(3, 36)))),
        ("an ICMP redirect", carried(&v4(ICMP).packet(&icmp(5, 36)))),
        ("an echo reply", carried(&v4(ICMP).packet(&icmp(0, 16)))),
        ("an ICMPv6 error", carried(&v6(ICMPV6).packet(&icmp(1, 56)))),
        ("packet too big", carried(&v6(ICMPV6).packet(&icmp(2, 56)))),
        (
            "an ICMPv6 echo reply",
            carried(&v6(ICMPV6).packet(&icmp(129, 16))),
        ),
        ("a first fragment", carried(&fragment.packet(&udp(1, 443, 8, 0)))),
        ("a later fragment", carried(&later.packet(&[0; 40]))),
        (
            "a fragment, IPv6",
            carried(&v6(UDP).fragment(1).packet(&udp(1, 443, 8, 0))),
        ),
        (
            "an atomic fragment",
            carried(&v6(UDP).fragment(0).packet(&udp(1, 443, 8, 0))),
        ),
        ("IPv4 options", carried(&options.packet(&segment(SYN, 5, 0)))),
        (
            "an extension header",
            carried(&v6(TCP).extended(60, 8).packet(&segment(SYN, 5, 0))),
        ),
        ("no length", carried(&endless.packet(&udp(1, 443, 8, 0)))),
        ("less than a header", carried(&v4(UNKNOWN).packet(&[0; 7]))),
        ("less than a header, IPv6", carried(&v6(UNKNOWN).packet(&[0; 7]))),
        ("to a group of stations", group),
        ("to a multicast group", between("192.0.2.1", "224.0.0.251")),
        ("to all", between("192.0.2.1", "255.255.255.255")),
        ("to a multicast group, IPv6", between("2001:db8::1", "ff02::fb")),
        ("from nobody", between("0.0.0.0", "203.0.113.9")),
        ("from loopback", between("127.0.0.1", "203.0.113.9")),
        ("from a reserved address", between("240.0.0.1", "203.0.113.9")),
        ("from nobody, IPv6", between("::", "2001:db8::9")),
        ("from loopback, IPv6", between("::1", "2001:db8::9")),
    ];
    for (what, asked) in rows {
        let before = rig.counts();
        let (verdict, left) = rig.offline.arrive(&asked).unwrap();
        let moved: Vec<Place> = moved(&before, &rig.counts()).into_keys().collect();
        let counted = place(Some("p"), Direction::Ingress, Reason::Denied, Verdict::Drop);
        assert_eq!((verdict, moved), (Verdict::Drop, vec![counted]), "{what}");
        assert_eq!(left, asked, "{what}: it is left as it was");
    }
}

#[test]
fn what_contradicts_itself_is_dropped_alone() {
    let Some(mut rig) = Rig::new(&document("p", "enforce", DENIED)) else {
        return;
    };
    for (what, asked, reason) in [
        (
            "cut off",
            carried(&v4(TCP).packet(&segment(SYN, 5, 0)[..12])),
            Reason::Truncated,
        ),
        (
            "from a multicast group",
            carried(&packet(
                ip("224.0.0.1"),
                IpAddr::V4(NODE_V4),
                UDP,
                &udp(1, 2, 8, 0),
            )),
            Reason::Martian,
        ),
    ] {
        let decision = rig.offline.decide(Direction::Ingress, &asked).unwrap();
        assert_eq!(
            (decision.verdict, decision.reason),
            (Verdict::Drop, reason),
            "{what}"
        );
    }
}

/// How many of `count` packets at one moment are answered; the others are dropped.
fn answers(rig: &mut Rig, count: u32, asked: &[u8]) -> u32 {
    let verdicts = (0..count).map(|_| rig.offline.arrive(asked).unwrap().0);
    verdicts
        .map(|verdict| match verdict {
            Verdict::Reset => 1,
            Verdict::Drop => 0,
            other => panic!("{other:?}"),
        })
        .sum()
}

#[test]
fn answers_are_bounded() {
    let Some(mut rig) = Rig::new(&document("p", "enforce", DENIED)) else {
        return;
    };
    let asked = carried(&v4(TCP).packet(&segment(SYN, 5, 0)));
    let cpus = u32::try_from(std::thread::available_parallelism().unwrap().get()).unwrap();
    // Later than what other tests have had answered.
    rig.at(START + 10 * SECOND);
    // One more begins the burst than it holds.
    let at_once = answers(&mut rig, (BURST + 1) * cpus * 4, &asked);
    assert!((BURST + 1..=(BURST + 1) * cpus).contains(&at_once), "{at_once}");
    let counts = rig.counts();
    let counted = |verdict| {
        let place = place(Some("p"), Direction::Ingress, Reason::Denied, verdict);
        counts.get(&place).map(|counter| counter.packets)
    };
    assert_eq!(counted(Verdict::Reset), Some(u64::from(at_once)));
    assert_eq!(
        counted(Verdict::Drop),
        Some(u64::from((BURST + 1) * cpus * 4 - at_once))
    );
    // A thousand a second for each.
    rig.later(Duration::from_millis(10));
    let later = answers(&mut rig, 50 * cpus, &asked);
    assert!((1..=11 * cpus).contains(&later), "{later}");
}

#[test]
fn shadow_answers_nothing() {
    let Some(mut rig) = Rig::new(&document("p", "shadow", DENIED)) else {
        return;
    };
    for asked in [
        carried(&v4(TCP).packet(&segment(SYN, 5, 0))),
        carried(&v6(UDP).packet(&udp(1, 443, 8, 0))),
    ] {
        let (verdict, left) = rig.offline.arrive(&asked).unwrap();
        assert_eq!((verdict, left), (Verdict::Pass, asked.clone()));
        let decision = rig.offline.decide(Direction::Ingress, &asked).unwrap();
        assert_eq!(
            (decision.verdict, decision.reason),
            (Verdict::Shadow, Reason::Denied)
        );
    }
}
