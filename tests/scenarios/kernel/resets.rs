//! `action: reset`: the frame that goes back, field by field, and what is never answered.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use enforcer::{
    gateway::signal::Flow,
    kernel::{DeniedBy, monotonic_ns},
    policy::model::Action,
};
use enforcer_common::{
    layout::MAX_REVOKED,
    verdict::{Direction, Reason, Verdict},
};
use lab::frame::{
    checksum,
    layers::{TYPE_IPV4, TYPE_IPV6, carried, ethernet, icmp, packet, tcp, udp},
    pseudo_sum, sum,
};

use crate::{
    packets::{ACK, CLIENT_V4, CLIENT_V6, FAMILIES, NODE_V4, NODE_V6, SYN, TCP, UDP, ip, v4, v6},
    rig::{Place, Rig, SECOND, START, document, moved, place},
};

const FIN: u8 = 0x01;
const RST: u8 = 0x04;
const PUSH: u8 = 0x08;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// A protocol that the programs know nothing of.
const UNKNOWN: u8 = 253;

/// Answers of one CPU at once.
const BURST: u32 = 100;

const DENIED: &str = "  action: reset\n  deny: [192.0.2.0/24, \"2001:db8:1::/48\"]";

/// A rig of its own: how many answers there were is not forgotten between tests.
fn rig(documents: &str) -> Option<Rig> {
    let mut rig = Rig::new(documents)?;
    rig.keep_to_itself();
    Some(rig)
}

fn frame(tags: &[u16], packet: &[u8]) -> Vec<u8> {
    let kind = if packet[0] >> 4 == 4 { TYPE_IPV4 } else { TYPE_IPV6 };
    ethernet(tags, kind, packet)
}

/// A segment with a sequence number, an acknowledgement, options and data.
fn segment(flags: u8, words: u8, data: usize) -> Vec<u8> {
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
fn expect_reset(
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
fn expect_unreachable(what: &str, asked: &[u8], tags: usize, answer: &[u8], quoted: usize) {
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

#[test]
fn segments_are_reset() {
    let Some(mut rig) = rig(&document("p", "enforce", DENIED)) else {
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
    let Some(mut rig) = rig(&document("p", "enforce", DENIED)) else {
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
    let Some(mut rig) = rig(&document("p", "enforce", DENIED)) else {
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
    let Some(mut rig) = rig(&document("p", "enforce", deny)) else {
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
    let Some(mut rig) = rig(&document("p", "enforce", DENIED)) else {
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
    let Some(mut rig) = rig(&document("p", "enforce", DENIED)) else {
        return;
    };
    let asked = carried(&v4(TCP).packet(&segment(SYN, 5, 0)));
    let cpus = u32::try_from(std::thread::available_parallelism().unwrap().get()).unwrap();
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
    rig.at(START + 10_000_000);
    let later = answers(&mut rig, 50 * cpus, &asked);
    assert!((1..=11 * cpus).contains(&later), "{later}");
}

#[test]
fn shadow_answers_nothing() {
    let Some(mut rig) = rig(&document("p", "shadow", DENIED)) else {
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

/// Each rule has its own action, which that of the policy stands in for.
#[test]
fn rules_say_what_becomes_of_what_they_end() {
    let entry = |cidr, action: &str| format!("{{cidr: {cidr}{action}}}");
    for (policy, entries, expected) in [
        ("", "", Verdict::Drop),
        ("  action: drop\n", "", Verdict::Drop),
        ("  action: reset\n", "", Verdict::Reset),
        ("", ", action: reset", Verdict::Reset),
        ("  action: reset\n", ", action: drop", Verdict::Drop),
    ] {
        let deny = format!("{policy}  deny: [{}]", entry("192.0.2.0/24", entries));
        let limit = format!("{policy}  limits: [{{rate: 1/d, burst: 1{entries}}}]");
        for (rules, reason, first) in [(deny, Reason::Denied, false), (limit, Reason::Limit0, true)] {
            let Some(mut rig) = rig(&document("p", "enforce", &rules)) else {
                return;
            };
            let asked = carried(&v4(TCP).packet(&segment(SYN, 5, 0)));
            if first {
                assert!(rig.passes(&asked));
            }
            let decision = rig.offline.decide(Direction::Ingress, &asked).unwrap();
            assert_eq!((decision.verdict, decision.reason), (expected, reason), "{rules}");
        }
    }
}

#[test]
fn each_of_several_limits_has_its_own_action() {
    let limits = "  limits:
    - {count: connections, rate: 1/d, burst: 1}
    - {count: packets, rate: 1/d, burst: 2, action: reset}";
    let Some(mut rig) = rig(&document("p", "enforce", limits)) else {
        return;
    };
    let syn = carried(&v6(TCP).packet(&segment(SYN, 5, 0)));
    let data = carried(&v6(TCP).packet(&segment(ACK, 5, 9)));
    let rows = [
        (&syn, Verdict::Pass, Reason::WithinLimits),
        (&syn, Verdict::Drop, Reason::Limit0),
        (&data, Verdict::Pass, Reason::WithinLimits),
        (&data, Verdict::Reset, Reason::Limit1),
    ];
    for (asked, verdict, reason) in rows {
        let decision = rig.offline.decide(Direction::Ingress, asked).unwrap();
        assert_eq!((decision.verdict, decision.reason), (verdict, reason));
    }
}

#[test]
fn an_operators_denial_may_be_told() {
    let Some(mut rig) = rig(&document("p", "enforce", "  ports: [tcp/1]")) else {
        return;
    };
    rig.at(monotonic_ns());
    let hour = Duration::from_secs(3_600);
    for (prefix, action) in [
        ("192.0.2.1/32", Action::Drop),
        ("2001:db8:1:1::1/128", Action::Reset),
    ] {
        rig.offline
            .denials
            .deny(prefix.parse().unwrap(), DeniedBy::Operator, "test", hour, action)
            .unwrap();
    }
    for (source, node, verdict) in [
        (IpAddr::V4(CLIENT_V4), IpAddr::V4(NODE_V4), Verdict::Drop),
        (IpAddr::V6(CLIENT_V6), IpAddr::V6(NODE_V6), Verdict::Reset),
    ] {
        let asked = carried(&packet(source, node, TCP, &segment(ACK, 5, 0)));
        let decision = rig.offline.decide(Direction::Ingress, &asked).unwrap();
        assert_eq!(
            (decision.verdict, decision.reason),
            (verdict, Reason::DeniedByOperator)
        );
    }
}

/// Hands a frame over: the one that goes back, which must be counted as told.
fn answered(rig: &mut Rig, asked: &[u8], reason: Reason, policy: Option<&'static str>) -> Vec<u8> {
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

/// Whatever the policy says: it is an operator's word.
#[test]
fn revoked_connections_are_dropped_until_that_ends() {
    for mode in ["enforce", "shadow"] {
        let policy = "  ports: [tcp/443]\n  allow: [0.0.0.0/0, \"::/0\"]";
        let Some(mut rig) = rig(&document("p", mode, policy)) else {
            return;
        };
        let now_ns = monotonic_ns();
        rig.at(now_ns);
        for (client, node) in FAMILIES {
            let frame = |port, protocol, segment: Vec<u8>| {
                let mut segment = segment;
                segment[..2].copy_from_slice(&u16::to_be_bytes(port));
                carried(&packet(client, node, protocol, &segment))
            };
            let data = frame(40_000, TCP, segment(ACK, 5, 3));
            let decide = |rig: &mut Rig, frame: &[u8]| {
                let decision = rig.offline.decide(Direction::Ingress, frame).unwrap();
                (decision.verdict, decision.reason)
            };
            assert_eq!(decide(&mut rig, &data), (Verdict::Pass, Reason::Allowed));
            let flow = Flow {
                peer: SocketAddr::new(client, 40_000),
                local: SocketAddr::new(node, 443),
            };
            assert!(rig.offline.revoked.revoke(flow, Duration::from_secs(60)).unwrap());
            let rows = [
                ("data", data.clone(), Verdict::Reset, Reason::Revoked),
                (
                    "a SYN of the same",
                    frame(40_000, TCP, segment(SYN, 5, 0)),
                    Verdict::Reset,
                    Reason::Revoked,
                ),
                (
                    "a reset is not answered",
                    frame(40_000, TCP, segment(RST, 5, 0)),
                    Verdict::Drop,
                    Reason::Revoked,
                ),
                (
                    "a datagram between the same",
                    frame(40_000, UDP, udp(40_000, 443, 8, 0)),
                    Verdict::Reset,
                    Reason::Revoked,
                ),
                (
                    "another connection",
                    frame(40_001, TCP, segment(ACK, 5, 3)),
                    Verdict::Pass,
                    Reason::Allowed,
                ),
            ];
            for (what, frame, verdict, reason) in rows {
                rig.later(Duration::from_millis(2));
                assert_eq!(
                    decide(&mut rig, &frame),
                    (verdict, reason),
                    "{mode}, {client}: {what}"
                );
            }
            let [(found, left)] = rig.offline.revoked.at(client)[..] else {
                panic!("{:?}", rig.offline.revoked.at(client));
            };
            assert_eq!(found, flow);
            assert!(left <= Duration::from_secs(60));
            // Without the agent it holds, like denials, and like them it ends by itself.
            rig.offline.set_alive_until(now_ns - 1, true).unwrap();
            assert_eq!(decide(&mut rig, &data).1, Reason::Revoked);
            rig.offline.set_alive_until(now_ns - 1, false).unwrap();
            assert_eq!(decide(&mut rig, &data).1, Reason::Allowed);
            rig.offline.set_alive_until(u64::MAX, true).unwrap();
            rig.at(now_ns + 120 * SECOND);
            assert_eq!(decide(&mut rig, &data), (Verdict::Pass, Reason::Allowed));
            rig.at(now_ns + SECOND);
        }
    }
}

#[test]
fn revocations_are_bounded() {
    let Some(mut rig) = rig(&document("p", "enforce", "  ports: [tcp/443]")) else {
        return;
    };
    let flow = |port| Flow {
        peer: SocketAddr::new(IpAddr::V4(CLIENT_V4), port),
        local: SocketAddr::new(IpAddr::V4(NODE_V4), 443),
    };
    rig.at(monotonic_ns());
    let revoke = |rig: &Rig, port, lasts| rig.offline.revoked.revoke(flow(port), lasts).unwrap();
    let most = u16::try_from(MAX_REVOKED).unwrap();
    for port in 1..=most {
        assert!(revoke(&rig, port, Duration::from_secs(3_600)));
    }
    assert!(!revoke(&rig, most + 1, Duration::from_secs(3_600)), "one more");
    assert!(revoke(&rig, 7, Duration::from_nanos(1)), "one of them anew");
    std::thread::sleep(Duration::from_millis(1));
    assert!(
        revoke(&rig, most + 1, Duration::from_secs(1)),
        "in the place of one that has ended"
    );
    assert_eq!(rig.offline.revoked.count(), MAX_REVOKED as usize);
}
