//! Bytes that leave, limited by destination and by interface.

use std::net::IpAddr;

use enforcer_common::verdict::Reason;
use lab::frame::layers::{carried, packet, tcp, udp};

use crate::{
    egress_rules::{Side, check_all, fresh},
    packets::{ACK, SYN, TCP, UDP, ip, node},
    rig::{Case, Rig, SECOND, START, document},
};

/// A frame of 1,000 bytes.
fn thousand(destination: &str) -> Vec<u8> {
    let to: IpAddr = ip(destination);
    let headers = if to.is_ipv4() { 42 } else { 62 };
    let payload = 1_000 - headers;
    carried(&packet(
        node(to),
        to,
        UDP,
        &udp(9, 9, (8 + payload) as u16, payload),
    ))
}

/// How many of `count` frames of a thousand bytes pass.
fn passing(rig: &mut Rig, side: Side, destination: &str, count: u32) -> u32 {
    let frame = thousand(destination);
    let passes = |rig: &mut Rig| {
        let allowed = side.sends("a frame", frame.clone(), Reason::EgressAllowed, "p");
        rig.complaint(&allowed).is_none()
    };
    (0..count).map(|_| u32::from(passes(rig))).sum()
}

#[test]
fn each_destination_has_its_own() {
    let egress = "    limits: [{per: destination, rate: 8Mbit/s, burst: 10000}]";
    check_all(egress, |side| {
        let within = |destination| side.sends("within", thousand(destination), Reason::EgressAllowed, "p");
        let over = |destination| side.sends("over", thousand(destination), Reason::EgressLimit0, "p");
        let cases = |one, other| {
            let ten = (0..10).map(move |_| within(one));
            ten.chain([over(one), within(other), over(one)])
                .collect::<Vec<_>>()
        };
        let families = [
            cases("192.0.2.1", "192.0.2.2"),
            cases("2001:db8:1::1", "2001:db8:2::1"),
        ];
        families.into_iter().flatten().collect()
    });
}

#[test]
fn a_prefix_is_one_destination() {
    let egress = "    limits: [{per: destination, prefix: {ipv4: 24, ipv6: 48}, rate: 8Mbit/s, burst: 2000}]";
    check_all(egress, |side| {
        let within = |destination| side.sends("within", thousand(destination), Reason::EgressAllowed, "p");
        let over = |destination| side.sends("over", thousand(destination), Reason::EgressLimit0, "p");
        vec![
            within("192.0.2.1"),
            within("192.0.2.2"),
            over("192.0.2.3"),
            within("192.0.3.3"),
            within("2001:db8:1:1::1"),
            within("2001:db8:1:2::1"),
            over("2001:db8:1:3::1"),
            within("2001:db8:2:3::1"),
        ]
    });
}

#[test]
fn all_that_leaves_by_an_interface_shares_one() {
    let egress = "    limits:
      - {name: each, per: destination, rate: 8Mbit/s, burst: 2000}
      - {name: all, per: interface, rate: 8Mbit/s, burst: 3000}";
    check_all(egress, |side| {
        let within = |destination| side.sends("within", thousand(destination), Reason::EgressAllowed, "p");
        vec![
            within("192.0.2.1"),
            within("192.0.2.1"),
            side.sends("over its own", thousand("192.0.2.1"), Reason::EgressLimit0, "p"),
            within("2001:db8:1::1"),
            side.sends(
                "over that of all",
                thousand("192.0.2.2"),
                Reason::EgressLimit1,
                "p",
            ),
            side.sends("over both", thousand("192.0.2.1"), Reason::EgressLimit0, "p"),
        ]
    });
}

/// 8 Mbit/s are 1,000 frames of 1,000 bytes.
#[test]
fn rates_hold() {
    for side in [Side::Node, Side::Pod] {
        for per in ["destination", "interface"] {
            let rest = format!(
                "  egress:\n    {}\n    limits: [{{per: {per}, rate: 8Mbit/s, burst: 100000}}]",
                side.of()
            );
            let Some(mut rig) = fresh(&document("p", "enforce", &rest)) else {
                return;
            };
            for destination in ["192.0.2.1", "2001:db8:1::1"] {
                // A second before, so that the other family has left nothing used.
                let start = START + if destination.contains(':') { 10 * SECOND } else { 0 };
                let mut admitted = 0;
                for step in 0..1_000 {
                    rig.at(start + step * SECOND / 250);
                    admitted += passing(&mut rig, side, destination, 8);
                }
                // Four seconds less one step, and the burst.
                let expected = 100 + 4 * 1_000 - 4;
                println!("{side:?}, per {per}, {destination}: {admitted} of {expected}");
                assert!(
                    admitted.abs_diff(expected) <= expected / 100,
                    "{admitted}, not {expected}"
                );
            }
        }
    }
}

/// What is denied takes nothing from a limit, and replies count.
#[test]
fn what_leaves_is_charged_and_nothing_else() {
    let egress = "    default: deny
    allow: [198.51.100.0/24]
    limits: [{per: interface, rate: 8Mbit/s, burst: 1054}]";
    check_all(egress, |side| {
        let client = ip("192.0.2.1");
        let reply = |reason| {
            let frame = carried(&packet(
                node(client),
                client,
                TCP,
                &tcp(443, 50_000, 5, SYN | ACK),
            ));
            side.sends("a reply of 54 bytes", frame, reason, "p")
        };
        vec![
            side.sends("denied", thousand("203.0.113.1"), Reason::EgressDefault, "p"),
            side.gets(
                "a SYN",
                carried(&packet(client, node(client), TCP, &tcp(50_000, 443, 5, SYN))),
            ),
            reply(Reason::EgressReply),
            side.sends("allowed", thousand("198.51.100.1"), Reason::EgressAllowed, "p"),
            reply(Reason::EgressLimit0),
        ]
    });
}

/// A limit is about what leaves under its policy, by the local port.
#[test]
fn a_limit_is_its_policys() {
    let documents = [
        document(
            "web",
            "enforce",
            "  ports: [tcp/443]\n  egress: {limits: [{per: interface, rate: 8Mbit/s, burst: 54}]}",
        ),
        document("rest", "enforce", ""),
    ];
    let Some(mut rig) = fresh(&documents.concat()) else {
        return;
    };
    let client = ip("192.0.2.1");
    let from = |port| carried(&packet(node(client), client, TCP, &tcp(port, 50_000, 5, ACK)));
    rig.check(&[
        Case::leaves("within", from(443), Reason::EgressAllowed, "web"),
        Case::leaves("over", from(443), Reason::EgressLimit0, "web"),
        Case::leaves("of another policy", from(444), Reason::EgressAllowed, "rest"),
    ]);
}

#[test]
fn limits_lapse_when_the_agent_is_gone() {
    let rest = "  egress: {limits: [{per: interface, rate: 8kbit/s, burst: 1000}]}";
    let Some(mut rig) = fresh(&document("p", "enforce", rest)) else {
        return;
    };
    let row = |reason| [Case::leaves("a frame", thousand("192.0.2.1"), reason, "p")];
    rig.check(&row(Reason::EgressAllowed));
    rig.check(&row(Reason::EgressLimit0));
    rig.offline.set_alive_until(START - 1, true).unwrap();
    rig.check(&row(Reason::AgentGone));
    rig.offline.set_alive_until(u64::MAX, true).unwrap();
    rig.check(&row(Reason::EgressLimit0));
}
