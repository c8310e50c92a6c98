//! What may leave, by prefix, protocol and port: of the node and of a pod, enforced and in shadow.

use std::net::IpAddr;

use enforcer_common::verdict::Reason;
use lab::frame::layers::{V4, V6, carried, ethernet, icmp, packet, tcp, udp};

use crate::{
    packets::{ACK, SYN, TCP, UDP, ip, node, v4, v6},
    rig::{Case, Rig, document},
};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Whose egress a table is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Node,
    Pod,
}

impl Side {
    /// What a policy's `egress` begins with.
    pub fn of(self) -> &'static str {
        match self {
            Self::Node => "of: node",
            Self::Pod => "of: pod",
        }
    }

    /// A packet that leaves.
    pub fn sends(
        self,
        description: &'static str,
        frame: Vec<u8>,
        reason: Reason,
        policy: impl Into<Option<&'static str>>,
    ) -> Case {
        match self {
            Self::Node => Case::leaves(description, frame, reason, policy),
            Self::Pod => Case::leaves_pod(description, frame, reason, policy),
        }
    }

    /// A packet that comes in from without, and passes.
    pub fn gets(self, description: &'static str, frame: Vec<u8>) -> Case {
        match self {
            Self::Node => Case::arrives(description, frame, Reason::WithinLimits, "p"),
            Self::Pod => Case::leaves(description, frame, Reason::ToPod, "p"),
        }
    }
}

/// A rig that remembers no flows.
pub fn fresh(documents: &str) -> Option<Rig> {
    let mut rig = Rig::new(documents)?;
    rig.offline.forget_flows().unwrap();
    Some(rig)
}

/// Runs a table for the egress of a node and of a pod, in both modes. `egress` goes on from `of`.
pub fn check_all(egress: &str, cases: impl Fn(Side) -> Vec<Case>) {
    for side in [Side::Node, Side::Pod] {
        for mode in ["enforce", "shadow"] {
            let rest = format!("  egress:\n    {}\n{egress}", side.of());
            let Some(mut rig) = fresh(&document("p", mode, &rest)) else {
                return;
            };
            let cases = cases(side).into_iter();
            let cases: Vec<Case> = if mode == "shadow" {
                cases.map(Case::in_shadow).collect()
            } else {
                cases.collect()
            };
            println!("{side:?}, {mode}: {} cases", cases.len());
            rig.check(&cases);
        }
    }
}

/// A segment from port 40000 to `port` of `destination`.
pub fn tcp_to(destination: &str, port: u16) -> Vec<u8> {
    let to: IpAddr = ip(destination);
    carried(&packet(node(to), to, TCP, &tcp(40_000, port, 5, SYN)))
}

/// A datagram from port 40000 to `port` of `destination`.
pub fn udp_to(destination: &str, port: u16) -> Vec<u8> {
    let to: IpAddr = ip(destination);
    carried(&packet(node(to), to, UDP, &udp(40_000, port, 8, 0)))
}

/// An echo request.
pub fn echo_to(destination: &str) -> Vec<u8> {
    let to: IpAddr = ip(destination);
    let (protocol, kind) = if to.is_ipv4() { (ICMP, 8) } else { (ICMPV6, 128) };
    carried(&packet(node(to), to, protocol, &icmp(kind, 8)))
}

#[test]
fn only_what_is_allowed_leaves() {
    const EGRESS: &str = "    default: deny
    allow:
      - {cidr: 10.0.0.0/8, ports: tcp/443}
      - {cidr: 10.1.0.0/16, ports: [udp/53, tcp/80]}
      - 192.0.2.0/24
      - {cidr: 198.51.100.0/24, ports: [tcp]}
      - {cidr: 203.0.113.0/24, ports: [icmp, udp]}
      - {cidr: \"2001:db8:a::/48\", ports: [tcp/443, udp/53]}
      - {cidr: \"2001:db8:b::/48\", ports: icmp}
      - \"2001:db8:c::/48\"
    deny:
      - {cidr: 10.1.2.0/24, ports: tcp/443}
      - {cidr: 192.0.2.7/32, reason: \"not this one\"}
      - {cidr: 198.51.100.0/24, ports: tcp/25}
      - \"2001:db8:a:5::/64\"
      - {cidr: \"2001:db8:c::/48\", ports: udp}";
    check_all(EGRESS, |side| {
        let allowed = |description, frame| side.sends(description, frame, Reason::EgressAllowed, "p");
        let closed = |description, frame| side.sends(description, frame, Reason::EgressDefault, "p");
        let denied = |description, frame| side.sends(description, frame, Reason::EgressDenied, "p");
        vec![
            allowed("a port of a network", tcp_to("10.9.9.9", 443)),
            closed("another port of it", tcp_to("10.9.9.9", 80)),
            closed("the same port of UDP", udp_to("10.9.9.9", 443)),
            closed("ICMP to it", echo_to("10.9.9.9")),
            closed("beside it", tcp_to("11.0.0.1", 443)),
            allowed(
                "the wider network's port within a narrower one",
                tcp_to("10.1.9.9", 443),
            ),
            allowed("the narrower one's own", tcp_to("10.1.9.9", 80)),
            allowed("its datagrams", udp_to("10.1.9.9", 53)),
            closed("which are not the wider one's", udp_to("10.2.9.9", 53)),
            closed("nor is any other port", tcp_to("10.1.9.9", 22)),
            denied("a list takes a port away", tcp_to("10.1.2.3", 443)),
            allowed("and leaves the others", tcp_to("10.1.2.3", 80)),
            allowed("all of a network: TCP", tcp_to("192.0.2.1", 9)),
            allowed("all of a network: UDP", udp_to("192.0.2.1", 9)),
            allowed("all of a network: ICMP", echo_to("192.0.2.1")),
            allowed(
                "all of a network: another protocol",
                carried(&packet(node(ip("192.0.2.1")), ip("192.0.2.1"), 132, &[0; 12])),
            ),
            denied("but one address", tcp_to("192.0.2.7", 9)),
            denied("whatever is sent", echo_to("192.0.2.7")),
            allowed("a whole protocol", tcp_to("198.51.100.9", 12_345)),
            denied("but one port", tcp_to("198.51.100.9", 25)),
            closed("not another protocol", udp_to("198.51.100.9", 25)),
            allowed("echo requests", echo_to("203.0.113.77")),
            allowed("and datagrams", udp_to("203.0.113.77", 1)),
            closed("no connections", tcp_to("203.0.113.77", 1)),
            allowed("IPv6: a port", tcp_to("2001:db8:a::1", 443)),
            allowed("IPv6: datagrams", udp_to("2001:db8:a::1", 53)),
            closed("IPv6: another port", tcp_to("2001:db8:a::1", 53)),
            closed("IPv6: echo requests", echo_to("2001:db8:a::1")),
            denied("IPv6: a network within is denied", tcp_to("2001:db8:a:5::1", 443)),
            allowed("ICMPv6", echo_to("2001:db8:b::1")),
            closed("no IPv6 connections", tcp_to("2001:db8:b::1", 443)),
            closed("IPv6: beside", tcp_to("2001:db8:d::1", 443)),
            allowed("IPv6: allowed but for a protocol", tcp_to("2001:db8:c::1", 1)),
            denied("IPv6: the protocol", udp_to("2001:db8:c::1", 1)),
            allowed("IPv6: the others", echo_to("2001:db8:c::1")),
        ]
    });
}

/// What is written about all addresses is on no list: it would make every packet walk.
#[test]
fn all_addresses_of_a_family_have_rules_of_their_own() {
    const EGRESS: &str = "    default: deny
    allow: [{cidr: 0.0.0.0/0, ports: tcp/443}, {cidr: 10.0.0.0/8, ports: tcp/80}]
    deny: [{cidr: 10.0.0.0/9, ports: tcp/443}, {cidr: 0.0.0.0/0, ports: udp/53}]";
    check_all(EGRESS, |side| {
        vec![
            side.sends("anywhere", tcp_to("192.0.2.1", 443), Reason::EgressAllowed, "p"),
            side.sends(
                "at another port",
                tcp_to("192.0.2.1", 80),
                Reason::EgressDefault,
                "p",
            ),
            side.sends(
                "in a network",
                tcp_to("10.200.0.1", 443),
                Reason::EgressAllowed,
                "p",
            ),
            side.sends(
                "at its own port",
                tcp_to("10.200.0.1", 80),
                Reason::EgressAllowed,
                "p",
            ),
            side.sends(
                "where a list takes it away",
                tcp_to("10.1.0.1", 443),
                Reason::EgressDenied,
                "p",
            ),
            side.sends(
                "denied everywhere",
                udp_to("192.0.2.1", 53),
                Reason::EgressDenied,
                "p",
            ),
            side.sends(
                "in a network too",
                udp_to("10.1.0.1", 53),
                Reason::EgressDenied,
                "p",
            ),
            side.sends(
                "IPv6 is another family",
                tcp_to("2001:db8::1", 443),
                Reason::EgressDefault,
                "p",
            ),
        ]
    });
}

#[test]
fn without_a_default_only_lists_deny() {
    const EGRESS: &str =
        "    deny: [{cidr: 0.0.0.0/0, ports: tcp/25}, {cidr: \"::/0\", ports: [tcp/25, icmp]}, 192.0.2.0/24]";
    check_all(EGRESS, |side| {
        vec![
            side.sends("a port", tcp_to("198.51.100.1", 25), Reason::EgressDenied, "p"),
            side.sends(
                "IPv6: a port",
                tcp_to("2001:db8::1", 25),
                Reason::EgressDenied,
                "p",
            ),
            side.sends(
                "IPv6: a protocol",
                echo_to("2001:db8::1"),
                Reason::EgressDenied,
                "p",
            ),
            side.sends(
                "another port",
                tcp_to("198.51.100.1", 26),
                Reason::EgressAllowed,
                "p",
            ),
            side.sends(
                "another protocol",
                udp_to("198.51.100.1", 25),
                Reason::EgressAllowed,
                "p",
            ),
            side.sends(
                "echo requests",
                echo_to("198.51.100.1"),
                Reason::EgressAllowed,
                "p",
            ),
            side.sends("a network", udp_to("192.0.2.1", 9), Reason::EgressDenied, "p"),
            side.gets(
                "who is let in",
                carried(&packet(
                    ip("192.0.2.1"),
                    node(ip("192.0.2.1")),
                    TCP,
                    &tcp(9, 80, 5, SYN),
                )),
            ),
            side.sends(
                "is not answered where the list denies it",
                carried(&packet(
                    node(ip("192.0.2.1")),
                    ip("192.0.2.1"),
                    TCP,
                    &tcp(80, 9, 5, SYN | ACK),
                )),
                Reason::EgressDenied,
                "p",
            ),
        ]
    });
}

#[test]
fn what_keeps_a_link_alive_leaves_and_nothing_else_gets_round() {
    const EGRESS: &str = "    default: deny
    allow: [{cidr: 192.0.2.0/24, ports: [tcp/443]}, 198.51.100.0/24]";
    check_all(EGRESS, |side| {
        let solicitation = |limit| {
            carried(
                &V6 {
                    hop_limit: limit,
                    destination: "ff02::1:ff00:1".parse().unwrap(),
                    ..v6(ICMPV6)
                }
                .packet(&icmp(135, 24)),
            )
        };
        let advertisement = |destination: &str| {
            carried(
                &V6 {
                    hop_limit: 255,
                    destination: destination.parse().unwrap(),
                    ..v6(ICMPV6)
                }
                .packet(&icmp(136, 24)),
            )
        };
        let report = |limit| {
            carried(
                &V6 {
                    hop_limit: limit,
                    destination: "ff02::16".parse().unwrap(),
                    ..v6(ICMPV6).extended(0, 8)
                }
                .packet(&icmp(143, 8)),
            )
        };
        let closed = |description, frame| side.sends(description, frame, Reason::EgressDefault, "p");
        let misshapen = |destination: &str| {
            carried(
                &V4 {
                    destination: destination.parse().unwrap(),
                    words: Some(1),
                    ..v4(TCP)
                }
                .packet(&tcp(1, 443, 5, ACK)),
            )
        };
        let inner = misshapen("192.0.2.1");
        vec![
            side.sends("ARP", ethernet(&[], 0x0806, &[0; 28]), Reason::Lifeline, None),
            side.sends("neighbour discovery", solicitation(255), Reason::Lifeline, None),
            closed("from afar", solicitation(64)),
            closed("to an address beyond the link", advertisement("2001:db8:1:1::1")),
            side.sends(
                "to one of the link",
                advertisement("fe80::1"),
                Reason::Lifeline,
                None,
            ),
            side.sends("multicast listeners", report(1), Reason::Lifeline, None),
            closed("not of this link", report(64)),
            side.sends("LLDP", ethernet(&[], 0x88cc, &[0; 28]), Reason::NotIp, None),
            side.sends("LACP", ethernet(&[], 0x8809, &[0; 28]), Reason::NotIp, None),
            side.sends(
                "a spanning tree",
                ethernet(&[], 38, &[0x42; 38]),
                Reason::NotIp,
                None,
            ),
            closed("MPLS", ethernet(&[], 0x8847, &inner[14..])),
            closed("PPPoE", ethernet(&[], 0x8864, &inner[14..])),
            side.sends(
                "three tags around what is allowed",
                ethernet(&[0x8100; 3], 0x0800, &tcp_to("192.0.2.1", 443)[14..]),
                Reason::EgressAllowed,
                "p",
            ),
            side.sends(
                "nine tags",
                ethernet(&[0x8100; 9], 0x0800, &tcp_to("192.0.2.1", 443)[14..]),
                Reason::VlanTags,
                "p",
            ),
            closed("a header that cannot be", misshapen("192.0.2.1")),
            side.sends(
                "one to where everything may go",
                misshapen("198.51.100.1"),
                Reason::EgressAllowed,
                None,
            ),
            closed(
                "seven extension headers",
                carried(
                    &(0..7)
                        .fold(v6(UDP), |packet, _| packet.extended(60, 8))
                        .packet(&udp(1, 53, 8, 0)),
                ),
            ),
            closed("DHCP is not allowed by itself", udp_to("255.255.255.255", 67)),
        ]
    });
}

#[test]
fn later_fragments_leave_behind_a_first_one() {
    const EGRESS: &str = "    default: deny
    allow:
      - {cidr: 192.0.2.0/24, ports: [udp/53]}
      - {cidr: 198.51.100.0/24, ports: [udp]}
      - {cidr: 203.0.113.0/24, ports: [tcp/443]}
      - {cidr: \"2001:db8:a::/48\", ports: [udp/53]}";
    check_all(EGRESS, |side| {
        let to_v4 = |destination: &str, fragment| V4 {
            destination: destination.parse().unwrap(),
            fragment,
            ..v4(UDP)
        };
        let first =
            |destination, port| carried(&to_v4(destination, 0x2000).packet(&udp(9, port, 3_000, 1_472)));
        let later = |destination| carried(&to_v4(destination, 185).packet(&[0; 64]));
        let to_v6 = || V6 {
            destination: "2001:db8:a::1".parse().unwrap(),
            ..v6(UDP)
        };
        let later_v6 = || carried(&to_v6().fragment(185 << 3).packet(&[0; 64]));
        let allowed =
            |description, frame, policy| side.sends(description, frame, Reason::EgressAllowed, policy);
        let closed = |description, frame| side.sends(description, frame, Reason::EgressDefault, "p");
        vec![
            allowed("of a whole protocol", later("198.51.100.1"), "p"),
            closed("alone", later("192.0.2.1")),
            closed("a first one to another port", first("192.0.2.1", 54)),
            closed("brings none along", later("192.0.2.1")),
            allowed("a first one", first("192.0.2.1", 53), "p"),
            allowed("brings others along", later("192.0.2.1"), "p"),
            closed("to no other address", later("192.0.2.2")),
            closed("IPv6: alone", later_v6()),
            allowed(
                "IPv6: a first one",
                carried(&to_v6().fragment(1).packet(&udp(9, 53, 3_000, 64))),
                "p",
            ),
            allowed("IPv6: brings others along", later_v6(), "p"),
            closed("of a port of TCP", {
                carried(
                    &V4 {
                        destination: "203.0.113.1".parse().unwrap(),
                        fragment: 9,
                        ..v4(TCP)
                    }
                    .packet(&[0; 8]),
                )
            }),
        ]
    });
}
