//! TCP, UDP and ICMP headers that are whole, cut off, or lie; and protocols without ports.

use enforcer_common::verdict::Reason;
use lab::frame::layers::{carried, icmp, packet, tcp, udp};

use crate::{
    packets::{ACK, FAMILIES, TCP, UDP},
    rig::{Case, check_both},
};

/// Whoever is understood as a packet to port 443 is denied; the rest is within limits.
const DENY_443: &str = "  ports: [tcp/443, udp/443]\n  deny: [192.0.2.0/24, \"2001:db8:1::/48\"]";

/// Rows of protocol and segment, in both families.
fn both(rows: impl Fn() -> Vec<(&'static str, u8, Vec<u8>, Reason)>) -> impl Fn() -> Vec<Case> {
    move || {
        let case = |(from, to)| {
            rows()
                .into_iter()
                .map(move |(description, protocol, segment, reason)| {
                    let policy = (reason != Reason::NoPolicy).then_some("p");
                    Case::arrives(
                        description,
                        carried(&packet(from, to, protocol, &segment)),
                        reason,
                        policy,
                    )
                })
        };
        FAMILIES.into_iter().flat_map(case).collect()
    }
}

#[test]
fn tcp_headers() {
    let words = |words, length: usize| {
        let mut segment = tcp(1, 443, words, ACK);
        segment.truncate(length);
        segment
    };
    check_both(
        "p",
        DENY_443,
        both(|| {
            vec![
                ("plain", TCP, words(5, 20), Reason::Denied),
                ("options", TCP, words(10, 40), Reason::Denied),
                ("the longest header", TCP, words(15, 60), Reason::Denied),
                ("data", TCP, [words(5, 20), vec![0; 100]].concat(), Reason::Denied),
                ("another port", TCP, tcp(443, 444, 5, ACK), Reason::NoPolicy),
                ("port zero", TCP, tcp(443, 0, 5, ACK), Reason::NoPolicy),
                (
                    "a data offset of four words",
                    TCP,
                    words(4, 20),
                    Reason::Malformed,
                ),
                ("a data offset of zero", TCP, words(0, 20), Reason::Malformed),
                (
                    "a data offset beyond the packet",
                    TCP,
                    words(6, 20),
                    Reason::Truncated,
                ),
                (
                    "the greatest data offset, one byte short",
                    TCP,
                    words(15, 59),
                    Reason::Truncated,
                ),
                ("one byte short", TCP, words(5, 19), Reason::Truncated),
                ("ports alone", TCP, words(5, 4), Reason::Truncated),
                ("nothing", TCP, Vec::new(), Reason::Truncated),
            ]
        }),
    );
}

#[test]
fn udp_headers() {
    check_both(
        "p",
        DENY_443,
        both(|| {
            vec![
                ("empty", UDP, udp(1, 443, 8, 0), Reason::Denied),
                ("data", UDP, udp(1, 443, 108, 100), Reason::Denied),
                (
                    "a length of zero: a jumbogram's",
                    UDP,
                    udp(1, 443, 0, 100),
                    Reason::Denied,
                ),
                (
                    "a length that leaves bytes over",
                    UDP,
                    udp(1, 443, 8, 100),
                    Reason::Denied,
                ),
                ("another port", UDP, udp(443, 444, 8, 0), Reason::NoPolicy),
                ("a length of seven", UDP, udp(1, 443, 7, 0), Reason::Malformed),
                ("a length of one", UDP, udp(1, 443, 1, 100), Reason::Malformed),
                (
                    "a length beyond the packet",
                    UDP,
                    udp(1, 443, 9, 0),
                    Reason::Malformed,
                ),
                (
                    "the greatest length",
                    UDP,
                    udp(1, 443, 65_535, 0),
                    Reason::Malformed,
                ),
                (
                    "one byte short",
                    UDP,
                    udp(1, 443, 8, 0)[..7].to_vec(),
                    Reason::Truncated,
                ),
                ("nothing", UDP, Vec::new(), Reason::Truncated),
            ]
        }),
    );
}

#[test]
fn protocols_without_ports() {
    const SCTP: u8 = 132;
    const ESP: u8 = 50;
    const GRE: u8 = 47;
    const UDP_LITE: u8 = 136;
    check_both(
        "p",
        DENY_443,
        both(|| {
            vec![
                ("an echo request", 1, icmp(8, 8), Reason::NoPolicy),
                ("an ICMPv6 echo request", 58, icmp(128, 8), Reason::NoPolicy),
                ("ICMPv6 of four bytes", 58, icmp(128, 4), Reason::NoPolicy),
                ("ICMP cut off", 1, icmp(8, 7), Reason::Truncated),
                ("ICMPv6 cut off", 58, icmp(128, 3), Reason::Truncated),
                (
                    "SCTP has no ports here",
                    SCTP,
                    udp(1, 443, 0, 4),
                    Reason::NoPolicy,
                ),
                (
                    "UDP-Lite has no ports here",
                    UDP_LITE,
                    udp(1, 443, 8, 0),
                    Reason::NoPolicy,
                ),
                ("ESP", ESP, tcp(1, 443, 5, ACK), Reason::NoPolicy),
                ("GRE", GRE, vec![0; 4], Reason::NoPolicy),
                (
                    "a protocol that nobody has, without a byte",
                    253,
                    Vec::new(),
                    Reason::NoPolicy,
                ),
            ]
        }),
    );
}
