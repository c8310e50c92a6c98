//! IPv4: header lengths, total lengths, fragments, impossible sources.

use std::net::Ipv4Addr;

use enforcer_common::verdict::Reason;
use lab::frame::layers::{TYPE_IPV4, V4, carried, ethernet, tcp, udp};

use crate::{
    packets::{ACK, NODE_V4, TCP, UDP, v4},
    rig::{Case, check_both},
};

/// Whoever is understood as a packet to tcp/443 is denied; the rest is under no policy.
const DENY_443: &str = "  ports: [tcp/443]\n  deny: [192.0.2.0/24]";

fn to_443(header: V4) -> Vec<u8> {
    ethernet(&[], TYPE_IPV4, &header.packet(&tcp(1, 443, 5, ACK)))
}

fn understood(description: &'static str, frame: Vec<u8>) -> Case {
    Case::arrives(description, frame, Reason::Denied, "p")
}

fn refused(description: &'static str, frame: Vec<u8>, reason: Reason) -> Case {
    Case::arrives(description, frame, reason, "p")
}

fn padded(mut frame: Vec<u8>, bytes: usize) -> Vec<u8> {
    frame.resize(frame.len() + bytes, 0xee);
    frame
}

#[test]
fn lengths() {
    check_both("p", DENY_443, || {
        let plain = v4(TCP);
        let cut = |length: usize| to_443(plain)[..length].to_vec();
        let total = |total| V4 {
            total: Some(total),
            ..plain
        };
        let words = |words| V4 {
            words: Some(words),
            ..plain
        };
        let options = |options| V4 { options, ..plain };
        vec![
            understood("plain", to_443(plain)),
            understood("one word of options", to_443(options(1))),
            understood("ten words of options", to_443(options(10))),
            understood("padding behind the packet", padded(to_443(plain), 6)),
            understood("a total length of zero: BIG TCP", to_443(total(0))),
            refused(
                "version 6 in an IPv4 frame",
                to_443(V4 { version: 6, ..plain }),
                Reason::Malformed,
            ),
            refused("version 0", to_443(V4 { version: 0, ..plain }), Reason::Malformed),
            refused("a header of four words", to_443(words(4)), Reason::Malformed),
            refused("a header of no words", to_443(words(0)), Reason::Malformed),
            refused(
                "a header longer than the packet",
                to_443(V4 {
                    total: Some(40),
                    ..words(15)
                }),
                Reason::Malformed,
            ),
            refused(
                "a total length below the header",
                to_443(total(19)),
                Reason::Malformed,
            ),
            refused("a total length of one", to_443(total(1)), Reason::Malformed),
            refused(
                "a total length of the header alone",
                to_443(total(20)),
                Reason::Truncated,
            ),
            refused(
                "a total length that cuts TCP",
                to_443(total(39)),
                Reason::Truncated,
            ),
            refused(
                "a total length beyond the frame",
                to_443(total(41)),
                Reason::Truncated,
            ),
            refused(
                "the greatest total length",
                to_443(total(65_535)),
                Reason::Truncated,
            ),
            refused("19 bytes of a header", cut(14 + 19), Reason::Truncated),
            refused("no transport", cut(14 + 20), Reason::Truncated),
            refused(
                "options cut off where the total is zero",
                {
                    carried(
                        &V4 {
                            words: Some(15),
                            total: Some(0),
                            ..v4(47)
                        }
                        .packet(&[0; 39]),
                    )
                },
                Reason::Truncated,
            ),
        ]
    });
}

#[test]
fn fragments() {
    const MORE: u16 = 0x2000;
    check_both("p", DENY_443, || {
        let fragment = |fragment| V4 { fragment, ..v4(TCP) };
        let of_udp = |fragment, length, bytes| {
            carried(&V4 { fragment, ..v4(UDP) }.packet(&udp(1, 443, length, bytes)))
        };
        let ports_only = |field| carried(&fragment(field).packet(&tcp(1, 443, 5, ACK)[..8]));
        vec![
            understood("don't fragment", to_443(fragment(0x4000))),
            understood("the first has ports", to_443(fragment(MORE))),
            understood("in the middle: the base policy's", to_443(fragment(MORE | 5))),
            understood("the last: the base policy's", to_443(fragment(5))),
            understood("a later one of eight bytes", ports_only(1)),
            understood("a later one without a byte", carried(&fragment(9).packet(&[]))),
            understood("the greatest offset", carried(&fragment(0x1fff).packet(&[]))),
            refused("a first one of eight bytes", ports_only(MORE), Reason::Truncated),
            refused(
                "a first one without a byte",
                carried(&fragment(MORE).packet(&[])),
                Reason::Truncated,
            ),
            refused(
                "a first one that cuts TCP's options",
                carried(&fragment(MORE).packet(&tcp(1, 443, 8, ACK)[..24])),
                Reason::Truncated,
            ),
            Case::arrives(
                "a datagram's first with the whole's length",
                of_udp(MORE, 3_000, 16),
                Reason::NoPolicy,
                None,
            ),
            understood("a datagram's last", of_udp(100, 3_000, 16)),
        ]
    });
}

#[test]
fn sources() {
    check_both("p", "  deny: [0.0.0.0/0]", || {
        let from = |a, b, c, d| {
            to_443(V4 {
                source: Ipv4Addr::new(a, b, c, d),
                ..v4(TCP)
            })
        };
        let martian = |description, frame| refused(description, frame, Reason::Martian);
        vec![
            martian("the first of multicast", from(224, 0, 0, 0)),
            martian("all hosts", from(224, 0, 0, 1)),
            martian("the last of multicast", from(239, 255, 255, 255)),
            martian("limited broadcast", from(255, 255, 255, 255)),
            understood("just below multicast", from(223, 255, 255, 255)),
            understood("just above multicast", from(240, 0, 0, 0)),
            understood("just below broadcast", from(255, 255, 255, 254)),
            understood("nobody: DHCP's", from(0, 0, 0, 0)),
            martian(
                "a martian fragment",
                to_443(V4 {
                    fragment: 5,
                    source: Ipv4Addr::BROADCAST,
                    ..v4(TCP)
                }),
            ),
            understood("multicast as the destination", {
                to_443(V4 {
                    destination: Ipv4Addr::new(224, 0, 0, 251),
                    ..v4(TCP)
                })
            }),
            understood(
                "to itself",
                to_443(V4 {
                    source: NODE_V4,
                    ..v4(TCP)
                }),
            ),
        ]
    });
}
