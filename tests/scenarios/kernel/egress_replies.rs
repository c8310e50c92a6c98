//! Replies to those that spoke first, and were let in, leave where nothing else may.

use std::net::IpAddr;

use enforcer_common::verdict::{Direction, Reason, Verdict};
use lab::frame::layers::{V6, carried, icmp, packet, tcp, udp};

use crate::{
    egress_rules::{Side, check_all, echo_to, fresh, tcp_to, udp_to},
    packets::{ACK, FAMILIES, SYN, TCP, UDP, node},
    rig::{Case, SECOND, START, document},
};

const CLOSED: &str = "    default: deny";
const FIN: u8 = 0x01;
const RST: u8 = 0x04;

/// A segment from the client's port 50000 to the node's 443.
fn arriving(client: IpAddr, flags: u8) -> Vec<u8> {
    carried(&packet(client, node(client), TCP, &tcp(50_000, 443, 5, flags)))
}

/// One back.
fn leaving(client: IpAddr, flags: u8) -> Vec<u8> {
    carried(&packet(node(client), client, TCP, &tcp(443, 50_000, 5, flags)))
}

fn datagram(from: IpAddr, to: IpAddr, ports: [u16; 2]) -> Vec<u8> {
    carried(&packet(from, to, UDP, &udp(ports[0], ports[1], 8, 0)))
}

fn echo(from: IpAddr, to: IpAddr, reply: bool) -> Vec<u8> {
    let (protocol, kind) = match (from.is_ipv4(), reply) {
        (true, false) => (1, 8),
        (true, true) => (1, 0),
        (false, false) => (58, 128),
        (false, true) => (58, 129),
    };
    carried(&packet(from, to, protocol, &icmp(kind, 8)))
}

#[test]
fn who_opens_a_connection_is_answered() {
    check_all(CLOSED, |side| {
        let reply = |description, frame| side.sends(description, frame, Reason::EgressReply, "p");
        let closed = |description, frame| side.sends(description, frame, Reason::EgressDefault, "p");
        let cases = |(client, node): (IpAddr, IpAddr)| {
            vec![
                closed("nobody has asked", leaving(client, SYN | ACK)),
                side.gets("a SYN", arriving(client, SYN)),
                reply("its answer", leaving(client, SYN | ACK)),
                reply("again", leaving(client, SYN | ACK)),
                side.gets("an ACK", arriving(client, ACK)),
                reply("data", leaving(client, ACK)),
                closed(
                    "from another port",
                    carried(&packet(node, client, TCP, &tcp(444, 50_000, 5, ACK))),
                ),
                closed(
                    "to another port",
                    carried(&packet(node, client, TCP, &tcp(443, 50_001, 5, ACK))),
                ),
                closed("a connection the other way", leaving(client, SYN)),
                closed("another protocol", datagram(node, client, [443, 50_000])),
                side.gets("a FIN", arriving(client, FIN | ACK)),
                reply("data all the same", leaving(client, ACK)),
                reply("the other FIN", leaving(client, FIN | ACK)),
                reply("or a reset", leaving(client, RST)),
            ]
        };
        FAMILIES.into_iter().flat_map(cases).collect()
    });
}

#[test]
fn who_sends_a_datagram_or_an_echo_request_is_answered() {
    check_all(CLOSED, |side| {
        let reply = |description, frame| side.sends(description, frame, Reason::EgressReply, "p");
        let closed = |description, frame| side.sends(description, frame, Reason::EgressDefault, "p");
        let cases = |(client, node): (IpAddr, IpAddr)| {
            vec![
                closed("nobody has asked", datagram(node, client, [55, 50_000])),
                side.gets("a datagram", datagram(client, node, [50_000, 53])),
                reply("its answer", datagram(node, client, [53, 50_000])),
                closed("from another port", datagram(node, client, [54, 50_000])),
                closed("to another port", datagram(node, client, [53, 50_001])),
                closed("no echo reply yet", echo(node, client, true)),
                side.gets("an echo reply, which asks for nothing", echo(client, node, true)),
                closed("no echo reply yet", echo(node, client, true)),
                side.gets("an echo request", echo(client, node, false)),
                reply("its answer", echo(node, client, true)),
                closed("no request of one's own", echo(node, client, false)),
            ]
        };
        FAMILIES.into_iter().flat_map(cases).collect()
    });
}

/// Neighbours with global addresses ask each other who they are, and whether they are still there.
#[test]
fn a_neighbour_is_answered() {
    check_all(CLOSED, |side| {
        let (client, node) = FAMILIES[1];
        let (IpAddr::V6(from), IpAddr::V6(to)) = (client, node) else {
            return Vec::new();
        };
        let discovery = |from, to, kind| {
            carried(
                &V6 {
                    hop_limit: 255,
                    ..V6::new(from, to, 58)
                }
                .packet(&icmp(kind, 24)),
            )
        };
        let asked = discovery(from, to, 135);
        vec![
            side.sends("unasked", discovery(to, from, 136), Reason::EgressDefault, "p"),
            match side {
                Side::Node => Case::arrives("a solicitation", asked, Reason::Lifeline, None),
                Side::Pod => side.gets("a solicitation", asked),
            },
            side.sends(
                "an advertisement",
                discovery(to, from, 136),
                Reason::EgressReply,
                "p",
            ),
            side.sends(
                "a solicitation back",
                discovery(to, from, 135),
                Reason::EgressReply,
                "p",
            ),
            side.sends("a redirect", discovery(to, from, 137), Reason::EgressDefault, "p"),
        ]
    });
}

#[test]
fn a_reply_leaves_also_to_whom_a_list_denies() {
    let egress = "    default: deny
    allow: [{cidr: 0.0.0.0/0, ports: tcp/443}]
    deny: [192.0.2.0/24, \"2001:db8:1::/48\"]";
    check_all(egress, |side| {
        let cases = |(client, _): (IpAddr, IpAddr)| {
            vec![
                side.sends("denied", leaving(client, SYN | ACK), Reason::EgressDenied, "p"),
                side.gets("a SYN", arriving(client, SYN)),
                side.sends("its answer", leaving(client, SYN | ACK), Reason::EgressReply, "p"),
            ]
        };
        FAMILIES.into_iter().flat_map(cases).collect()
    });
}

/// What ingress drops has not been let in, and is not answered.
#[test]
fn who_is_not_let_in_is_not_answered() {
    let rest = "  deny: [192.0.2.0/24, \"2001:db8:1::/48\"]\n  egress: {default: deny}";
    let Some(mut rig) = fresh(&document("p", "enforce", rest)) else {
        return;
    };
    for (client, _) in FAMILIES {
        rig.check(&[
            Case::arrives("a SYN", arriving(client, SYN), Reason::Denied, "p"),
            Case::leaves(
                "no answer",
                leaving(client, SYN | ACK),
                Reason::EgressDefault,
                "p",
            ),
        ]);
    }
}

/// A new agent cuts no connection off that is there already, once its peer has said something.
#[test]
fn a_connection_whose_beginning_was_not_seen_is_answered() {
    check_all(CLOSED, |side| {
        let cases = |(client, _): (IpAddr, IpAddr)| {
            vec![
                side.sends("not yet", leaving(client, ACK), Reason::EgressDefault, "p"),
                side.gets("an answer opens nothing", arriving(client, SYN | ACK)),
                side.sends("not yet", leaving(client, ACK), Reason::EgressDefault, "p"),
                side.gets("nor does a reset", arriving(client, RST | ACK)),
                side.sends("not yet", leaving(client, ACK), Reason::EgressDefault, "p"),
                side.gets("a segment", arriving(client, ACK)),
                side.sends("its answer", leaving(client, ACK), Reason::EgressReply, "p"),
            ]
        };
        FAMILIES.into_iter().flat_map(cases).collect()
    });
}

#[test]
fn a_peer_that_falls_silent_is_forgotten() {
    for side in [Side::Node, Side::Pod] {
        let rest = format!("  egress: {{{}, default: deny}}", side.of());
        let Some(mut rig) = fresh(&document("p", "enforce", &rest)) else {
            return;
        };
        for (client, node) in FAMILIES {
            rig.at(START);
            let answer = || side.sends("an answer", leaving(client, ACK), Reason::EgressReply, "p");
            let none = || side.sends("none", leaving(client, ACK), Reason::EgressDefault, "p");
            let asked = datagram(client, node, [50_000, 53]);
            let answered =
                |reason| side.sends("a datagram", datagram(node, client, [53, 50_000]), reason, "p");
            rig.check(&[side.gets("a SYN", arriving(client, SYN)), answer()]);
            rig.check(&[
                side.gets("a datagram", asked.clone()),
                answered(Reason::EgressReply),
            ]);
            rig.at(START + 40 * SECOND);
            rig.check(&[answer(), answered(Reason::EgressDefault)]);
            rig.at(START + 130 * SECOND);
            rig.check(&[none()]);
            // One that has spoken twice may think for longer.
            rig.check(&[
                side.gets("a SYN", arriving(client, SYN)),
                answer(),
                side.gets("an ACK", arriving(client, ACK)),
            ]);
            rig.at(START + 3_000 * SECOND);
            rig.check(&[answer()]);
            rig.at(START + 30_000 * SECOND);
            rig.check(&[none()]);
        }
    }
}

/// What rules allowed is no answer when they no longer do, though its peer has answered.
#[test]
fn what_is_no_longer_allowed_ends() {
    for side in [Side::Node, Side::Pod] {
        let document = |allow: &str| {
            document(
                "p",
                "enforce",
                &format!("  egress: {{{}, default: deny, allow: [{allow}]}}", side.of()),
            )
        };
        let open = document("192.0.2.0/24, \"2001:db8:1::/48\"");
        let Some(mut rig) = fresh(&open) else { return };
        for (client, node) in FAMILIES {
            let text = client.to_string();
            rig.apply(&open, START);
            let back = |flags| carried(&packet(client, node, TCP, &tcp(443, 40_000, 5, flags)));
            let on = || carried(&packet(node, client, TCP, &tcp(40_000, 443, 5, ACK)));
            rig.check(&[
                side.sends("a SYN", tcp_to(&text, 443), Reason::EgressAllowed, "p"),
                side.gets("its answer", back(SYN | ACK)),
                side.sends("data", on(), Reason::EgressAllowed, "p"),
                side.gets("data", back(ACK)),
                side.sends("a datagram", udp_to(&text, 53), Reason::EgressAllowed, "p"),
                side.gets("its answer", datagram(client, node, [53, 40_000])),
                side.sends("an echo request", echo_to(&text), Reason::EgressAllowed, "p"),
                side.gets("its answer", echo(client, node, true)),
            ]);
            rig.apply(&document("203.0.113.0/24"), START);
            rig.check(&[
                side.sends("data", on(), Reason::EgressDefault, "p"),
                side.gets("data", back(ACK)),
                side.sends("data", on(), Reason::EgressDefault, "p"),
                side.sends("a datagram", udp_to(&text, 53), Reason::EgressDefault, "p"),
                side.gets("its answer", datagram(client, node, [53, 40_000])),
                side.sends("a datagram", udp_to(&text, 53), Reason::EgressDefault, "p"),
                side.sends("an echo request", echo_to(&text), Reason::EgressDefault, "p"),
            ]);
        }
    }
}

/// More forged packets than there are cells cut no connection off that is open.
#[test]
fn a_flood_of_forged_packets_cuts_no_connection_off() {
    const REAL: u16 = 200;
    const FORGED: u32 = 600_000;
    let Some(mut rig) = fresh(&document("p", "enforce", "  egress: {default: deny}")) else {
        return;
    };
    let segment = |client: IpAddr, port, flags, out| {
        let (node, own) = (node(client), 443);
        if out {
            carried(&packet(node, client, TCP, &tcp(own, port, 5, flags)))
        } else {
            carried(&packet(client, node, TCP, &tcp(port, own, 5, flags)))
        }
    };
    for (client, _) in FAMILIES {
        for port in 1_000..1_000 + REAL {
            for (flags, out) in [(SYN, false), (SYN | ACK, true), (ACK, false)] {
                let direction = if out {
                    Direction::Egress
                } else {
                    Direction::Ingress
                };
                let verdict = rig
                    .offline
                    .run(direction, &segment(client, port, flags, out))
                    .unwrap();
                assert_eq!(verdict, Verdict::Pass);
            }
        }
    }
    let mut forged = segment(IpAddr::from([10, 0, 0, 0]), 1, SYN, false);
    let mut unanswered = 0;
    for number in 0..FORGED {
        // The source address of IPv4 behind the Ethernet header.
        forged[26..30].copy_from_slice(&(number | 10 << 24).to_be_bytes());
        let _ = rig.offline.run(Direction::Ingress, &forged).unwrap();
        if number % 10_000 == 0 {
            let client = IpAddr::from((number | 10 << 24).to_be_bytes());
            let verdict = rig
                .offline
                .run(Direction::Egress, &segment(client, 1, SYN | ACK, true))
                .unwrap();
            unanswered += usize::from(verdict != Verdict::Pass);
        }
    }
    println!("{unanswered} of {} forged SYNs found no cell", FORGED / 10_000);
    assert_eq!(unanswered, 0, "who is new is answered during a flood too");
    for (client, _) in FAMILIES {
        for port in 1_000..1_000 + REAL {
            let verdict = rig
                .offline
                .run(Direction::Egress, &segment(client, port, ACK, true))
                .unwrap();
            assert_eq!(verdict, Verdict::Pass, "{client} {port}");
        }
    }
}
