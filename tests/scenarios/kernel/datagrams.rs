//! Limits on connections of UDP: the first datagram of a flow is one.

use std::net::IpAddr;

use enforcer_common::verdict::Reason;
use lab::frame::layers::{carried, packet, udp};

use crate::{
    packets::{FAMILIES, SYN, UDP, ip, node, tcp_from},
    rig::{Case, Rig, SECOND, START, check_both, document},
};

const WITHIN: Reason = Reason::WithinLimits;

fn datagram(source: IpAddr, from: u16, to: u16) -> Vec<u8> {
    carried(&packet(source, node(source), UDP, &udp(from, to, 8, 0)))
}

fn row(description: &'static str, frame: Vec<u8>, reason: Reason) -> Case {
    Case::arrives(description, frame, reason, "p")
}

#[test]
fn a_flow_costs_one() {
    for per in ["source", "service", "interface"] {
        let limit = format!("  limits: [{{per: {per}, count: connections, rate: 1/d, burst: 2}}]");
        for (client, _) in FAMILIES {
            check_both("p", &limit, || {
                vec![
                    row("the first flow", datagram(client, 1_000, 53), WITHIN),
                    row("goes on", datagram(client, 1_000, 53), WITHIN),
                    row("for nothing", datagram(client, 1_000, 53), WITHIN),
                    row(
                        "the second, from another port",
                        datagram(client, 1_001, 53),
                        WITHIN,
                    ),
                    row(
                        "a third, to another port",
                        datagram(client, 1_000, 54),
                        Reason::Limit0,
                    ),
                    row("is not remembered", datagram(client, 1_000, 54), Reason::Limit0),
                    row("the first still goes on", datagram(client, 1_000, 53), WITHIN),
                    row("and the second", datagram(client, 1_001, 53), WITHIN),
                    row(
                        "TCP's count with them",
                        tcp_from(client, 443, SYN),
                        Reason::Limit0,
                    ),
                ]
            });
        }
    }
}

#[test]
fn sources_have_flows_of_their_own() {
    let limit = "  limits: [{count: connections, traffic: udp, rate: 1/d, burst: 1}]";
    check_both("p", limit, || {
        let from = |source: &str| datagram(ip(source), 1_000, 53);
        vec![
            row("one of each", from("192.0.2.1"), WITHIN),
            row("one of each", from("192.0.2.2"), WITHIN),
            row("one of each", from("2001:db8:1:1::1"), WITHIN),
            row("one of each", from("2001:db8:1:2::1"), WITHIN),
            row("another of the /64", from("2001:db8:1:1::2"), Reason::Limit0),
            row("goes on", from("192.0.2.1"), WITHIN),
            row("goes on", from("2001:db8:1:1::1"), WITHIN),
            row("TCP's do not count", tcp_from(ip("192.0.2.1"), 443, SYN), WITHIN),
        ]
    });
}

#[test]
fn of_tcp_alone_they_are_free() {
    let limit = "  limits: [{count: connections, traffic: tcp, rate: 1/d, burst: 1}]";
    for (client, _) in FAMILIES {
        check_both("p", limit, || {
            vec![
                row("a flow", datagram(client, 1, 53), WITHIN),
                row("another", datagram(client, 2, 53), WITHIN),
                row("a connection", tcp_from(client, 443, SYN), WITHIN),
                row("another", tcp_from(client, 443, SYN), Reason::Limit0),
            ]
        });
    }
}

#[test]
fn a_flow_that_falls_silent_is_a_new_one() {
    for (client, _) in FAMILIES {
        let limit = "  limits: [{count: connections, rate: 1/d, burst: 1}]";
        let Some(mut rig) = Rig::new(&document("p", "enforce", limit)) else {
            return;
        };
        let flow = datagram(client, 1_000, 53);
        for second in [0, 25, 50, 75] {
            rig.at(START + second * SECOND);
            rig.check(&[row("it is heard of in time", flow.clone(), WITHIN)]);
        }
        rig.at(START + 110 * SECOND);
        rig.check(&[row("silent for 35 s", flow, Reason::Limit0)]);
    }
}

#[test]
fn a_packet_that_another_limit_refuses_opens_nothing() {
    let limits = "  limits: [{per: service, rate: 1/d, burst: 1}, {count: connections, rate: 1/d, burst: 1}]";
    for (client, _) in FAMILIES {
        let Some(mut rig) = Rig::new(&document("p", "enforce", limits)) else {
            return;
        };
        rig.check(&[
            row("the first", datagram(ip("198.51.100.9"), 1, 53), WITHIN),
            row(
                "refused by the service's",
                datagram(client, 1, 53),
                Reason::Limit0,
            ),
        ]);
        let limits =
            "  limits: [{per: service, rate: 1/d, burst: 3}, {count: connections, rate: 1/d, burst: 1}]";
        rig.apply(&document("p", "enforce", limits), START);
        rig.check(&[
            row(
                "not charged then, so it may open now",
                datagram(client, 1, 53),
                WITHIN,
            ),
            row("one is all", datagram(client, 2, 53), Reason::Limit1),
        ]);
    }
}

#[test]
fn a_forged_flood_forgets_no_flow() {
    let limit = "  limits: [{per: service, count: connections, rate: 1/d, burst: 25}]";
    let Some(mut rig) = Rig::new(&document("p", "enforce", limit)) else {
        return;
    };
    let flows: Vec<Vec<u8>> = (0..25)
        .map(|port| datagram(FAMILIES[0].0, 2_000 + port, 53))
        .collect();
    for flow in &flows {
        assert!(rig.passes(flow));
    }
    for number in 0..4_000_u32 {
        let forged = IpAddr::from((0x0a00_0000 | number).to_be_bytes());
        assert!(!rig.passes(&datagram(forged, 1, 53)), "{forged}");
    }
    for flow in &flows {
        assert!(rig.passes(flow));
    }
}
