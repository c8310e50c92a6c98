//! What leaves: counted by service, ended where a list denies the destination.

use std::net::IpAddr;

use enforcer_common::verdict::{Direction, Reason, Verdict};
use lab::frame::layers::{V4, V6, carried, icmp, packet, tcp, udp};
use time::{Duration, format_description::well_known::Rfc3339};

use crate::{
    packets::{ACK, FAMILIES, TCP, UDP, ip, node, v4, v6},
    rig::{Case, Rig, SECOND, START, check_both, document, place, wall},
};

fn to(destination: &str, port: u16) -> Vec<u8> {
    let destination: IpAddr = ip(destination);
    carried(&packet(
        node(destination),
        destination,
        TCP,
        &tcp(port, 40_000, 5, ACK),
    ))
}

#[test]
fn destinations_are_denied_by_prefix() {
    const DENY: &str = "  egress: {deny: [169.254.169.254/32, 198.51.100.0/24, \"2001:db8:a::/48\"]}";
    check_both("p", DENY, || {
        let denied = |description, destination| {
            Case::leaves(description, to(destination, 443), Reason::EgressDenied, "p")
        };
        let allowed = |description, destination| {
            Case::leaves(description, to(destination, 443), Reason::EgressAllowed, "p")
        };
        vec![
            denied("an address", "169.254.169.254"),
            allowed("beside it", "169.254.169.253"),
            denied("a network", "198.51.100.0"),
            denied("its last address", "198.51.100.255"),
            allowed("beside the network", "198.51.101.0"),
            denied("an IPv6 network", "2001:db8:a:ffff::1"),
            allowed("beside the IPv6 network", "2001:db8:b::1"),
            Case::leaves(
                "ICMP",
                {
                    carried(&packet(
                        node(ip("198.51.100.1")),
                        ip("198.51.100.1"),
                        1,
                        &icmp(8, 8),
                    ))
                },
                Reason::EgressDenied,
                "p",
            ),
            Case::leaves(
                "a later fragment",
                {
                    carried(
                        &V4 {
                            destination: "198.51.100.1".parse().unwrap(),
                            fragment: 9,
                            ..v4(TCP)
                        }
                        .packet(&[0; 8]),
                    )
                },
                Reason::EgressDenied,
                "p",
            ),
            Case::arrives(
                "what arrives from there",
                {
                    carried(&packet(
                        ip("198.51.100.1"),
                        node(ip("198.51.100.1")),
                        TCP,
                        &tcp(1, 443, 5, ACK),
                    ))
                },
                Reason::WithinLimits,
                "p",
            ),
        ]
    });
}

/// A list would be worth nothing if what a parser refuses got past it.
#[test]
fn what_is_refused_is_judged_by_where_it_goes() {
    let rest = "  egress: {deny: [198.51.100.0/24, \"2001:db8:e::/48\"]}";
    check_both("p", rest, || {
        let extended = (0..7).fold(v6(UDP), |packet, _| packet.extended(60, 8));
        vec![
            Case::leaves(
                "seven extension headers",
                carried(
                    &V6 {
                        destination: "2001:db8:e::1".parse().unwrap(),
                        ..extended
                    }
                    .packet(&udp(1, 53, 8, 0)),
                ),
                Reason::EgressDenied,
                "p",
            ),
            Case::leaves(
                "a header length that cannot be",
                carried(
                    &V4 {
                        destination: "198.51.100.1".parse().unwrap(),
                        words: Some(1),
                        ..v4(TCP)
                    }
                    .packet(&[]),
                ),
                Reason::EgressDenied,
                "p",
            ),
        ]
    });
}

#[test]
fn what_leaves_is_counted_by_its_service() {
    let documents = [
        document("dns", "enforce", "  ports: [udp/53]"),
        document("web", "enforce", "  ports: [tcp/443]"),
    ];
    let Some(mut rig) = Rig::new(&documents.concat()) else {
        return;
    };
    let cases = |(client, node): (IpAddr, IpAddr)| {
        let destination = client.to_string();
        [
            Case::leaves(
                "from tcp/443",
                to(&destination, 443),
                Reason::EgressAllowed,
                "web",
            ),
            Case::leaves(
                "from a port of nobody's",
                to(&destination, 444),
                Reason::NoPolicy,
                None,
            ),
            Case::leaves(
                "to port 443",
                carried(&packet(node, client, TCP, &tcp(40_000, 443, 5, ACK))),
                Reason::NoPolicy,
                None,
            ),
            Case::leaves(
                "ICMP",
                carried(&packet(node, client, 1, &icmp(8, 8))),
                Reason::NoPolicy,
                None,
            ),
        ]
    };
    rig.check(&FAMILIES.into_iter().flat_map(cases).collect::<Vec<_>>());
    rig.check(&[
        Case::leaves(
            "a later fragment: the base policy's",
            {
                carried(
                    &V4 {
                        fragment: 9,
                        ..v4(TCP)
                    }
                    .packet(&[0; 8]),
                )
            },
            Reason::EgressAllowed,
            "dns",
        ),
        Case::leaves(
            "malformed",
            carried(
                &V4 {
                    words: Some(1),
                    ..v4(TCP)
                }
                .packet(&[]),
            ),
            Reason::EgressAllowed,
            None,
        ),
    ]);
}

#[test]
fn entries_end() {
    let until = |seconds| (wall() + Duration::seconds(seconds)).format(&Rfc3339).unwrap();
    let policy = document(
        "p",
        "enforce",
        &format!(
            "  egress: {{deny: [{{cidr: 198.51.100.0/24, until: \"{}\"}}, {{cidr: 198.51.100.7/32, until: \"{}\"}}]}}",
            until(100),
            until(10),
        ),
    );
    let Some(mut rig) = Rig::new(&policy) else { return };
    let row = |reason| [Case::leaves("a destination", to("198.51.100.7", 1), reason, "p")];
    rig.check(&row(Reason::EgressDenied));
    rig.at(START + 10 * SECOND);
    rig.check(&row(Reason::EgressDenied));
    rig.at(START + 100 * SECOND);
    rig.check(&row(Reason::EgressAllowed));
}

/// Trying out a list must not lift another.
#[test]
fn a_list_in_shadow_hides_no_enforced_one() {
    let documents = [
        document(
            "firm",
            "enforce",
            "  ports: [tcp/1]\n  egress: {deny: [198.51.100.0/24, 192.0.2.7/32]}",
        ),
        document(
            "trial",
            "shadow",
            "  ports: [tcp/2]\n  egress: {deny: [198.51.100.7/32, 192.0.2.7/32, 203.0.113.0/24]}",
        ),
    ];
    let Some(mut rig) = Rig::new(&documents.concat()) else {
        return;
    };
    rig.check(&[
        Case::leaves(
            "on the enforced list",
            to("198.51.100.1", 9),
            Reason::EgressDenied,
            "firm",
        ),
        Case::leaves(
            "on both, longer on the trial's",
            to("198.51.100.7", 9),
            Reason::EgressDenied,
            "firm",
        ),
        Case::leaves(
            "the same on both",
            to("192.0.2.7", 9),
            Reason::EgressDenied,
            "firm",
        ),
        Case::leaves(
            "on the trial's alone",
            to("203.0.113.1", 9),
            Reason::NoPolicy,
            None,
        ),
    ]);
    let tried = place(
        Some("trial"),
        Direction::Egress,
        Reason::EgressDenied,
        Verdict::Shadow,
    );
    assert_eq!(rig.tried().get(&tried).map(|count| count.packets), Some(3));
}
