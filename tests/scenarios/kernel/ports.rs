//! Which policy a packet is under.

use enforcer_common::verdict::Reason;
use lab::frame::layers::{V4, carried, icmp, packet, tcp};

use crate::{
    packets::{ACK, FAMILIES, TCP, tcp_from, udp_from, v4, v6},
    rig::{Case, Rig, check_both, document},
};

const DENY: &str = "  deny: [0.0.0.0/0, \"::/0\"]";

#[test]
fn a_policy_with_ports_is_about_no_others() {
    check_both("web", &format!("  ports: [tcp/443, udp/53]\n{DENY}"), || {
        let cases = |(client, node)| {
            let none = |description, frame| Case::arrives(description, frame, Reason::NoPolicy, None);
            [
                Case::arrives("tcp/443", tcp_from(client, 443, ACK), Reason::Denied, "web"),
                Case::arrives("udp/53", udp_from(client, 53), Reason::Denied, "web"),
                none("udp/443", udp_from(client, 443)),
                none("tcp/53", tcp_from(client, 53, ACK)),
                none(
                    "bytes of the port swapped",
                    tcp_from(client, 443_u16.swap_bytes(), ACK),
                ),
                none(
                    "from port 443",
                    carried(&packet(client, node, TCP, &tcp(443, 80, 5, ACK))),
                ),
                none("ICMP", carried(&packet(client, node, 1, &icmp(8, 8)))),
            ]
        };
        FAMILIES.into_iter().flat_map(cases).collect()
    });
}

#[test]
fn each_policy_has_its_ports_and_the_wildcard_the_rest() {
    let documents = [
        document("dns", "shadow", &format!("  ports: [udp/53]\n{DENY}")),
        document("rest", "enforce", DENY),
        document(
            "web",
            "enforce",
            "  ports: [tcp/443, tcp/8443]\n  allow: [0.0.0.0/0, \"::/0\"]",
        ),
    ];
    let Some(mut rig) = Rig::new(&documents.concat()) else {
        return;
    };
    let cases = |(client, node)| {
        let rest = |description, frame| Case::arrives(description, frame, Reason::Denied, "rest");
        [
            Case::arrives("tcp/443", tcp_from(client, 443, ACK), Reason::Allowed, "web"),
            Case::arrives("tcp/8443", tcp_from(client, 8_443, ACK), Reason::Allowed, "web"),
            rest("udp/53, which one in shadow names", udp_from(client, 53)),
            rest("tcp/53", tcp_from(client, 53, ACK)),
            rest("udp/443", udp_from(client, 443)),
            rest("port zero", tcp_from(client, 0, ACK)),
            rest("ICMP", carried(&packet(client, node, 1, &icmp(8, 8)))),
        ]
    };
    rig.check(&FAMILIES.into_iter().flat_map(cases).collect::<Vec<_>>());
    rig.check(&[
        Case::arrives(
            "a later IPv4 fragment",
            {
                carried(
                    &V4 {
                        fragment: 9,
                        ..v4(TCP)
                    }
                    .packet(&tcp(1, 443, 5, ACK)),
                )
            },
            Reason::Denied,
            "rest",
        ),
        Case::arrives(
            "a later IPv6 fragment",
            carried(&v6(TCP).fragment(8).packet(&tcp(1, 443, 5, ACK))),
            Reason::Denied,
            "rest",
        ),
        Case::arrives(
            "a malformed one",
            {
                carried(
                    &V4 {
                        words: Some(2),
                        ..v4(TCP)
                    }
                    .packet(&tcp(1, 443, 5, ACK)),
                )
            },
            Reason::Malformed,
            "rest",
        ),
    ]);
}

#[test]
fn without_a_wildcard_the_first_policy_is_the_base() {
    let documents = [
        document("b", "enforce", "  ports: [tcp/1]\n  allow: [0.0.0.0/0]"),
        document("a", "enforce", &format!("  ports: [tcp/2]\n{DENY}")),
    ];
    let Some(mut rig) = Rig::new(&documents.concat()) else {
        return;
    };
    rig.check(&[
        Case::arrives("tcp/1", tcp_from(FAMILIES[0].0, 1, ACK), Reason::Allowed, "b"),
        Case::arrives("tcp/3", tcp_from(FAMILIES[0].0, 3, ACK), Reason::NoPolicy, None),
        Case::arrives(
            "a later fragment",
            {
                carried(
                    &V4 {
                        fragment: 9,
                        ..v4(TCP)
                    }
                    .packet(&tcp(1, 1, 5, ACK)),
                )
            },
            Reason::Denied,
            "a",
        ),
        Case::arrives(
            "a truncated one",
            {
                carried(
                    &V4 {
                        total: Some(999),
                        ..v4(TCP)
                    }
                    .packet(&tcp(1, 1, 5, ACK)),
                )
            },
            Reason::Truncated,
            "a",
        ),
    ]);
}

#[test]
fn an_interface_of_no_policy_passes_everything_uncounted() {
    let elsewhere = document("p", "enforce", DENY).replace(crate::rig::INTERFACE, "other0");
    let Some(mut rig) = Rig::new(&elsewhere) else {
        return;
    };
    let before = rig.counts();
    for (client, _) in FAMILIES {
        assert!(rig.passes(&tcp_from(client, 443, ACK)));
    }
    assert!(
        rig.passes(&carried(
            &V4 {
                words: Some(1),
                ..v4(TCP)
            }
            .packet(&[])
        ))
    );
    assert_eq!(rig.counts(), before);
}
