//! Limits about kinds of traffic: SYNs, TCP, UDP, ICMP, and the rest.

use std::net::IpAddr;

use enforcer_common::verdict::Reason;
use lab::frame::layers::{carried, icmp, packet};

use crate::{
    packets::{ACK, FAMILIES, SYN, UDP, node, tcp_from, udp_from, v4, v6},
    rig::{Case, check_both},
};

const WITHIN: Reason = Reason::WithinLimits;
const GRE: u8 = 47;

fn row(description: &'static str, frame: Vec<u8>, reason: Reason) -> Case {
    Case::arrives(description, frame, reason, "p")
}

/// An echo request.
fn ping(source: IpAddr) -> Vec<u8> {
    let (protocol, kind) = if source.is_ipv4() { (1, 8) } else { (58, 128) };
    carried(&packet(source, node(source), protocol, &icmp(kind, 8)))
}

fn other(source: IpAddr) -> Vec<u8> {
    carried(&packet(source, node(source), GRE, &[0; 8]))
}

/// A fragment of UDP that is not the first.
fn later_fragment(source: IpAddr) -> Vec<u8> {
    if source.is_ipv4() {
        let header = lab::frame::layers::V4 {
            fragment: 5,
            ..v4(UDP)
        };
        carried(&header.packet(&[0; 8]))
    } else {
        carried(&v6(UDP).fragment(5 << 3).packet(&[0; 8]))
    }
}

#[test]
fn each_kind_has_its_own_limit() {
    for per in ["source", "service", "interface"] {
        let limits = format!(
            "  limits: [{{per: {per}, traffic: tcp-syn, rate: 1/d, burst: 1}}, {{per: {per}, traffic: udp, rate: 1/d, burst: 2}}, {{per: {per}, traffic: icmp, rate: 1/d, burst: 3}}, {{per: {per}, traffic: other, rate: 1/d, burst: 1}}]"
        );
        for (client, _) in FAMILIES {
            check_both("p", &limits, || {
                vec![
                    row("a SYN", tcp_from(client, 443, SYN), WITHIN),
                    row("another", tcp_from(client, 443, SYN), Reason::Limit0),
                    row("a SYN with ACK is none", tcp_from(client, 443, SYN | ACK), WITHIN),
                    row("nor is data", tcp_from(client, 443, ACK), WITHIN),
                    row("a datagram", udp_from(client, 53), WITHIN),
                    row("a fragment counts too", later_fragment(client), WITHIN),
                    row("a third", udp_from(client, 53), Reason::Limit1),
                    row("and a fragment", later_fragment(client), Reason::Limit1),
                    row("a ping", ping(client), WITHIN),
                    row("a second", ping(client), WITHIN),
                    row("a third", ping(client), WITHIN),
                    row("a fourth", ping(client), Reason::Limit2),
                    row("another protocol", other(client), WITHIN),
                    row("twice", other(client), Reason::Limit3),
                    row("data goes on", tcp_from(client, 443, ACK), WITHIN),
                ]
            });
        }
    }
}

#[test]
fn tcp_is_all_of_tcp() {
    let limit = "  limits: [{traffic: tcp, rate: 1/d, burst: 2}]";
    for (client, _) in FAMILIES {
        check_both("p", limit, || {
            vec![
                row("a SYN", tcp_from(client, 443, SYN), WITHIN),
                row("data", tcp_from(client, 443, ACK), WITHIN),
                row("more", tcp_from(client, 443, ACK), Reason::Limit0),
                row("a SYN", tcp_from(client, 443, SYN), Reason::Limit0),
                row("UDP", udp_from(client, 53), WITHIN),
                row("a ping", ping(client), WITHIN),
            ]
        });
    }
}

#[test]
fn several_kinds_share_a_limit() {
    let limit = "  limits: [{traffic: [tcp-syn, icmp], rate: 1/d, burst: 2}]";
    for (client, _) in FAMILIES {
        check_both("p", limit, || {
            vec![
                row("a SYN", tcp_from(client, 443, SYN), WITHIN),
                row("a ping", ping(client), WITHIN),
                row("another", ping(client), Reason::Limit0),
                row("a SYN", tcp_from(client, 443, SYN), Reason::Limit0),
                row("UDP", udp_from(client, 53), WITHIN),
                row("data", tcp_from(client, 443, ACK), WITHIN),
            ]
        });
    }
}

#[test]
fn the_kind_and_the_prefix_go_together() {
    let limit =
        "  limits: [{traffic: udp, count: bytes, rate: 1B/s, burst: 130, prefix: [{ipv4: 24}, {ipv6: 48}]}]";
    check_both("p", limit, || {
        let from = |source: &str| udp_from(source.parse().unwrap(), 53);
        vec![
            row("42 bytes", from("192.0.2.1"), WITHIN),
            row("84", from("192.0.2.2"), WITHIN),
            row("126", from("192.0.2.3"), WITHIN),
            row("168", from("192.0.2.4"), Reason::Limit0),
            row(
                "TCP is free",
                tcp_from("192.0.2.4".parse().unwrap(), 443, ACK),
                WITHIN,
            ),
            row("62 bytes", from("2001:db8:1:1::1"), WITHIN),
            row("124", from("2001:db8:1:2::1"), WITHIN),
            row("186", from("2001:db8:1:3::1"), Reason::Limit0),
        ]
    });
}
