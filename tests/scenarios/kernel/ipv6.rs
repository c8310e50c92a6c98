//! IPv6: payload lengths, extension headers, fragments, impossible sources.

use std::net::Ipv6Addr;

use enforcer_common::verdict::Reason;
use lab::frame::layers::{TYPE_IPV6, V6, carried, ethernet, tcp, udp};

use crate::{
    packets::{ACK, TCP, UDP, v6},
    rig::{Case, check_both},
};

/// Whoever is understood as a packet to tcp/443 is denied; the rest is under no policy.
const DENY_443: &str = "  ports: [tcp/443]\n  deny: [\"2001:db8:1::/48\"]";

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ENCRYPTED: u8 = 50;
const AUTHENTICATION: u8 = 51;
const NONE: u8 = 59;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;

/// Of eight bytes each.
const PLAIN: [u8; 6] = [HOP_BY_HOP, ROUTING, DESTINATION, MOBILITY, HOST_IDENTITY, SHIM6];

fn to_443(header: &V6) -> Vec<u8> {
    ethernet(&[], TYPE_IPV6, &header.packet(&tcp(1, 443, 5, ACK)))
}

fn understood(description: &'static str, frame: Vec<u8>) -> Case {
    Case::arrives(description, frame, Reason::Denied, "p")
}

fn refused(description: &'static str, frame: Vec<u8>, reason: Reason) -> Case {
    Case::arrives(description, frame, reason, "p")
}

fn chain(kinds: &[u8]) -> V6 {
    kinds
        .iter()
        .fold(v6(TCP), |header, kind| header.extended(*kind, 8))
}

#[test]
fn lengths() {
    check_both("p", DENY_443, || {
        let cut = |length: usize| to_443(&v6(TCP))[..length].to_vec();
        let length = |length| {
            to_443(&V6 {
                length: Some(length),
                ..v6(TCP)
            })
        };
        let mut padded = to_443(&v6(TCP));
        padded.extend([0xee; 6]);
        vec![
            understood("plain", to_443(&v6(TCP))),
            understood("padding behind the packet", padded),
            understood("a payload length of zero: BIG TCP", length(0)),
            understood(
                "a jumbogram",
                to_443(&V6 {
                    length: Some(0),
                    ..chain(&[HOP_BY_HOP])
                }),
            ),
            refused(
                "version 4 in an IPv6 frame",
                to_443(&V6 {
                    version: 4,
                    ..v6(TCP)
                }),
                Reason::Malformed,
            ),
            refused("a payload length that cuts TCP", length(19), Reason::Truncated),
            refused("a payload length of one", length(1), Reason::Truncated),
            refused("a payload length beyond the frame", length(21), Reason::Truncated),
            refused("the greatest payload length", length(65_535), Reason::Truncated),
            refused("39 bytes of a header", cut(14 + 39), Reason::Truncated),
            refused("no transport", cut(14 + 40), Reason::Truncated),
        ]
    });
}

#[test]
fn extension_headers() {
    check_both("p", DENY_443, || {
        let mut cases: Vec<Case> = PLAIN
            .iter()
            .map(|kind| understood("one extension header", to_443(&chain(&[*kind]))))
            .collect();
        cases.extend([
            understood(
                "authentication, in words of four bytes",
                to_443(&v6(TCP).extended(AUTHENTICATION, 24)),
            ),
            understood(
                "authentication of an odd number of words",
                to_443(&v6(TCP).extended(AUTHENTICATION, 12)),
            ),
            understood("a long one", to_443(&v6(TCP).extended(DESTINATION, 2_048))),
            understood("two", to_443(&chain(&[HOP_BY_HOP, DESTINATION]))),
            understood("six", to_443(&chain(&PLAIN))),
            understood("the same six times", to_443(&chain(&[DESTINATION; 6]))),
            understood("seven", to_443(&chain(&[DESTINATION; 7]))),
            understood("sixty-four", to_443(&chain(&[DESTINATION; 64]))),
            refused(
                "sixty-five",
                to_443(&chain(&[DESTINATION; 65])),
                Reason::ExtensionHeaders,
            ),
            understood("six, and a fragment header", to_443(&chain(&PLAIN).fragment(1))),
            Case::arrives(
                "no next header",
                carried(&v6(NONE).packet(&[])),
                Reason::NoPolicy,
                None,
            ),
            Case::arrives(
                "encrypted",
                carried(&v6(ENCRYPTED).packet(&tcp(1, 443, 5, ACK))),
                Reason::NoPolicy,
                None,
            ),
            Case::arrives(
                "encrypted behind options",
                {
                    carried(
                        &v6(ENCRYPTED)
                            .extended(DESTINATION, 8)
                            .packet(&tcp(1, 443, 5, ACK)),
                    )
                },
                Reason::NoPolicy,
                None,
            ),
        ]);
        cases
    });
}

#[test]
fn cut_extension_headers() {
    check_both("p", DENY_443, || {
        let cut = |kind: u8, bytes: usize| {
            let header = v6(TCP).extended(kind, 16).packet(&[]);
            let mut packet = header[..40 + bytes].to_vec();
            packet[4..6].copy_from_slice(&(bytes as u16).to_be_bytes());
            carried(&packet)
        };
        let mut cases = Vec::new();
        for kind in [
            HOP_BY_HOP,
            ROUTING,
            DESTINATION,
            MOBILITY,
            HOST_IDENTITY,
            SHIM6,
            AUTHENTICATION,
        ] {
            for bytes in [1, 2, 3, 4, 8, 15] {
                cases.push(refused(
                    "an extension header cut off",
                    cut(kind, bytes),
                    Reason::Truncated,
                ));
            }
            cases.push(refused(
                "an extension header and no transport",
                cut(kind, 16),
                Reason::Truncated,
            ));
        }
        let declared = |length| {
            to_443(&V6 {
                length: Some(length),
                ..chain(&[DESTINATION])
            })
        };
        cases.push(refused(
            "the payload ends within the extension header",
            declared(7),
            Reason::Truncated,
        ));
        cases.push(refused(
            "the payload ends behind the extension header",
            declared(8),
            Reason::Truncated,
        ));
        cases
    });
}

#[test]
fn fragments() {
    check_both("p", DENY_443, || {
        let fragment = |field| v6(TCP).fragment(field);
        let cut = |field, bytes: u16| {
            to_443(&V6 {
                length: Some(bytes),
                ..fragment(field)
            })
        };
        let ends = |field, bytes: usize| {
            let mut packet = fragment(field).packet(&[])[..40 + bytes].to_vec();
            packet[5] = bytes as u8;
            carried(&packet)
        };
        vec![
            understood("atomic", to_443(&fragment(0))),
            understood("the first has ports", to_443(&fragment(1))),
            understood("in the middle: the base policy's", to_443(&fragment(0x51))),
            understood("the last: the base policy's", to_443(&fragment(0x50))),
            understood(
                "a later one of eight bytes",
                carried(&fragment(8).packet(&[0; 8])),
            ),
            understood("the greatest offset", carried(&fragment(0xfff8).packet(&[]))),
            understood("reserved bits are no offset", to_443(&fragment(6))),
            understood(
                "the first behind options",
                to_443(&v6(TCP).extended(HOP_BY_HOP, 8).fragment(1)),
            ),
            understood(
                "a later one behind options",
                to_443(&v6(TCP).extended(HOP_BY_HOP, 8).fragment(9)),
            ),
            understood(
                "options within the first",
                to_443(&fragment(1).extended(DESTINATION, 8)),
            ),
            understood("what follows in a later one is no header", {
                carried(
                    &V6 {
                        protocol: DESTINATION,
                        ..fragment(8)
                    }
                    .packet(&[0xff; 8]),
                )
            }),
            refused(
                "a first one of eight bytes",
                carried(&fragment(1).packet(&[0; 8])),
                Reason::Truncated,
            ),
            refused(
                "a first one without a byte",
                carried(&fragment(1).packet(&[])),
                Reason::Truncated,
            ),
            refused(
                "a first one whose header is cut off",
                ends(1, 7),
                Reason::Truncated,
            ),
            refused(
                "a later one whose header is cut off",
                ends(0x50, 7),
                Reason::Truncated,
            ),
            refused("half of a fragment header", ends(0x50, 4), Reason::Truncated),
            refused(
                "the payload ends within the fragment header",
                cut(0x50, 6),
                Reason::Truncated,
            ),
            Case::arrives(
                "a datagram's first with the whole's length",
                carried(&v6(UDP).fragment(1).packet(&udp(1, 443, 3_000, 16))),
                Reason::NoPolicy,
                None,
            ),
            understood(
                "a fragment in a fragment",
                to_443(&fragment(1).extended(FRAGMENT, 8).extended(DESTINATION, 2_048)),
            ),
        ]
    });
}

#[test]
fn sources() {
    check_both("p", "  deny: [\"::/0\"]", || {
        let from = |text: &str| {
            to_443(&V6 {
                source: text.parse().unwrap(),
                ..v6(TCP)
            })
        };
        let martian = |description, frame| refused(description, frame, Reason::Martian);
        vec![
            martian("all nodes", from("ff02::1")),
            martian("multicast of any scope", from("ff00::")),
            martian("an IPv4-mapped source", from("::ffff:192.0.2.1")),
            martian("an IPv4-mapped destination", {
                to_443(&V6 {
                    destination: "::ffff:192.0.2.1".parse().unwrap(),
                    ..v6(TCP)
                })
            }),
            understood("just below multicast", from("feff::1")),
            understood("link-local", from("fe80::1")),
            understood("nobody: duplicate address detection's", from("::")),
            understood("loopback", from("::1")),
            understood("IPv4-compatible, which is obsolete", from("::192.0.2.1")),
            understood("nearly mapped", from("::fffe:192.0.2.1")),
            understood("translated (RFC 6052)", from("64:ff9b::192.0.2.1")),
            understood("multicast as the destination", {
                to_443(&V6 {
                    destination: Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
                    ..v6(TCP)
                })
            }),
        ]
    });
}
