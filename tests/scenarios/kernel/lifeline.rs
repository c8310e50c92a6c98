//! What passes whatever the policies say.

use enforcer_common::verdict::Reason;
use lab::frame::layers::{V4, V6, carried, ethernet, icmp, tcp};

use crate::{
    packets::{ACK, TCP, ip, tcp_from, udp_from, v4, v6},
    rig::{Case, Rig, check_both, document},
};

const DENY_ALL: &str = "  deny: [0.0.0.0/0, \"::/0\"]";
const ICMPV6: u8 = 58;

#[test]
fn neighbour_discovery() {
    check_both("p", DENY_ALL, || {
        let message = |kind, hop_limit| {
            carried(
                &V6 {
                    hop_limit,
                    ..v6(ICMPV6)
                }
                .packet(&icmp(kind, 24)),
            )
        };
        let passes =
            |description, kind| Case::arrives(description, message(kind, 255), Reason::Lifeline, None);
        let denied = |description, frame| Case::arrives(description, frame, Reason::Denied, "p");
        let near = || V6 {
            hop_limit: 255,
            ..v6(ICMPV6)
        };
        vec![
            passes("a router solicitation", 133),
            passes("a router advertisement", 134),
            passes("a neighbour solicitation", 135),
            passes("a neighbour advertisement", 136),
            passes("a redirect", 137),
            Case::arrives(
                "behind hop-by-hop options",
                carried(&near().extended(0, 8).packet(&icmp(135, 24))),
                Reason::Lifeline,
                None,
            ),
            Case::arrives("ARP", ethernet(&[], 0x0806, &[0; 28]), Reason::Lifeline, None),
            denied("a solicitation that a router has passed on", message(135, 254)),
            denied("a solicitation from afar", message(135, 64)),
            denied(
                "a fragmented solicitation",
                carried(&near().fragment(1).packet(&icmp(135, 24))),
            ),
            denied(
                "an atomic fragment's solicitation",
                carried(&near().fragment(0).packet(&icmp(135, 24))),
            ),
            denied(
                "a later fragment",
                carried(&near().fragment(8).packet(&icmp(135, 24))),
            ),
            denied("multicast listener discovery", message(132, 255)),
            denied("just above a redirect", message(138, 255)),
            denied("an echo request", message(128, 255)),
            denied("TCP whose flags look like a solicitation", {
                carried(
                    &V6 {
                        hop_limit: 255,
                        ..v6(TCP)
                    }
                    .packet(&tcp(1, 443, 5, 135)),
                )
            }),
            denied("ICMPv6's number over IPv4", {
                carried(
                    &V4 {
                        ttl: 255,
                        ..v4(ICMPV6)
                    }
                    .packet(&icmp(135, 24)),
                )
            }),
        ]
    });
}

#[test]
fn the_management_list() {
    let management = ["192.0.2.128/25", "2001:db8:1:1::/64"];
    for mode in ["enforce", "shadow"] {
        let policy = document("p", mode, "  deny: [0.0.0.0/0, \"::/0\"]");
        let Some(mut rig) = Rig::managed(&policy, &management) else {
            return;
        };
        let managed = |source| {
            Case::arrives(
                "management",
                tcp_from(ip(source), 22, ACK),
                Reason::Management,
                None,
            )
        };
        let other = |source| Case::arrives("others", udp_from(ip(source), 22), Reason::Denied, "p");
        let cases = [
            managed("192.0.2.129"),
            managed("2001:db8:1:1:ffff::1"),
            other("192.0.2.127"),
            other("2001:db8:1:2::1"),
            Case::arrives(
                "a later fragment of management's",
                {
                    carried(
                        &V4 {
                            source: "192.0.2.200".parse().unwrap(),
                            fragment: 9,
                            ..v4(TCP)
                        }
                        .packet(&[0; 8]),
                    )
                },
                Reason::Management,
                None,
            ),
            Case::arrives(
                "a malformed packet is nobody's",
                {
                    carried(
                        &V4 {
                            source: "192.0.2.200".parse().unwrap(),
                            words: Some(1),
                            ..v4(TCP)
                        }
                        .packet(&[]),
                    )
                },
                Reason::Malformed,
                "p",
            ),
        ];
        let shadow = |case: Case| if mode == "shadow" { case.in_shadow() } else { case };
        rig.check(&cases.map(shadow));
    }
}
