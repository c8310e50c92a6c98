//! Packets that hide: behind tags, extension and authentication headers, and on devices without Ethernet. Whatever
//! Linux unwraps to IP is judged; what cannot be followed does not pass for that.

use enforcer_common::verdict::Reason;
use lab::frame::layers::{TYPE_IPV4, TYPE_IPV6, V4, carried, ethernet, packet, tcp};

use crate::{
    egress_rules::{Side, fresh},
    packets::{ACK, CLIENT_V4, FAMILIES, NODE_V4, TCP, ip, v4, v6},
    rig::{Case, Rig, document},
};

const PRIORITY: u16 = 0x8100;

/// A segment to tcp/443 behind so many tags, in each family.
fn tagged(count: usize) -> [Vec<u8>; 2] {
    let segment = tcp(1, 443, 5, ACK);
    let tags = vec![PRIORITY; count];
    let mut frames = [
        ethernet(&tags, TYPE_IPV4, &v4(TCP).packet(&segment)),
        ethernet(&tags, TYPE_IPV6, &v6(TCP).packet(&segment)),
    ];
    // Priority tags: those of VLAN 0 are what Linux takes off by itself.
    for frame in &mut frames {
        for tag in 0..count {
            frame[12 + 4 * tag + 3] = 0;
        }
    }
    frames
}

/// An IPv4 header, `count` authentication headers and the segment.
fn authenticated(source: std::net::Ipv4Addr, count: usize, segment: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for left in (0..count).rev() {
        let next = if left == 0 { TCP } else { 51 };
        // Four words: twelve bytes, and a checksum of four.
        body.extend([next, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0]);
    }
    body.extend(segment);
    carried(&V4::new(source, NODE_V4, 51).packet(&body))
}

/// A policy about what leaves, from this side.
fn enforced(side: Side, egress: &str) -> String {
    document("p", "enforce", &format!("  egress:\n    {}\n{egress}", side.of()))
}

#[test]
fn h1_nested_priority_tags_hide_no_source() {
    let Some(mut rig) = Rig::new(&document(
        "p",
        "enforce",
        "  deny: [192.0.2.0/24, \"2001:db8:1::/48\"]",
    )) else {
        return;
    };
    let cases = (0..=10).flat_map(|count| {
        let reason = if count > 8 {
            Reason::VlanTags
        } else {
            Reason::Denied
        };
        tagged(count).map(|frame| Case::arrives("behind priority tags", frame, reason, "p"))
    });
    rig.check(&cases.collect::<Vec<_>>());
}

#[test]
fn h1_nested_priority_tags_are_under_limits() {
    let limits = "  limits: [{per: source, rate: 1/d, burst: 2}]";
    let Some(mut rig) = Rig::new(&document("p", "enforce", limits)) else {
        return;
    };
    let row = |count, reason| tagged(count).map(|frame| Case::arrives("limited", frame, reason, "p"));
    for (count, reason) in [
        (3, Reason::WithinLimits),
        (8, Reason::WithinLimits),
        (5, Reason::Limit0),
        (9, Reason::VlanTags),
    ] {
        rig.check(&row(count, reason));
    }
}

/// The pod's first tag is not in the frame that TC sees, so each count here is one more on the wire.
#[test]
fn h1_egress_lists_and_limits_see_through_tags() {
    for side in [Side::Node, Side::Pod] {
        let row = |description, count, reason, policy| {
            tagged(count).map(|frame| side.sends(description, frame, reason, policy))
        };
        let with = |egress: &str| enforced(side, egress);
        let Some(mut rig) = fresh(&with("    deny: [203.0.113.9/32, \"2001:db8:9::/48\"]")) else {
            return;
        };
        for count in [0, 1, 3, 4, 8] {
            rig.check(&row("denied", count, Reason::EgressDenied, "p"));
        }
        rig.check(&row("nobody can tell", 9, Reason::VlanTags, "p"));
        let Some(mut rig) = fresh(&with(
            "    limits: [{per: interface, rate: 8Mbit/s, burst: 65536}]",
        )) else {
            return;
        };
        rig.check(&row("within the limit", 8, Reason::EgressAllowed, "p"));
        rig.check(&row("nobody can tell", 9, Reason::VlanTags, "p"));
        let Some(mut rig) = fresh(&with("    default: deny\n    allow: [198.51.100.0/24]")) else {
            return;
        };
        rig.check(&row("not allowed", 8, Reason::EgressDefault, "p"));
        rig.check(&row("nobody can tell", 9, Reason::VlanTags, "p"));
    }
    let Some(mut rig) = fresh(&document("p", "enforce", "  deny: [192.0.2.0/24]")) else {
        return;
    };
    rig.check(&tagged(9).map(|frame| {
        Case::leaves(
            "nothing is said of what leaves",
            frame,
            Reason::EgressAllowed,
            None,
        )
    }));
}

#[test]
fn h1_authentication_headers_hide_no_port() {
    let rest = "  ports: [tcp/443]\n  deny: [192.0.2.0/24]";
    let Some(mut rig) = Rig::new(&document("p", "enforce", rest)) else {
        return;
    };
    let frame = |count, port| authenticated(CLIENT_V4, count, &tcp(1, port, 5, ACK));
    rig.check(&[
        Case::arrives("one", frame(1, 443), Reason::Denied, "p"),
        Case::arrives("three", frame(3, 443), Reason::Denied, "p"),
        Case::arrives("to another port", frame(1, 80), Reason::NoPolicy, None),
        Case::arrives(
            "more than are followed",
            frame(65, 443),
            Reason::ExtensionHeaders,
            "p",
        ),
        Case::arrives("cut off", frame(1, 443)[..40].to_vec(), Reason::Truncated, "p"),
    ]);
}

#[test]
fn h1_frames_for_other_devices_are_dropped_where_a_policy_says_so() {
    let opaque = |kind| ethernet(&[PRIORITY; 3], kind, &[0; 46]);
    let kinds = [0x8847, 0x8848, 0x8863, 0x8864, 0x88e5];
    let table = |reason, policy: Option<&'static str>| -> Vec<Case> {
        let cases = kinds.into_iter().flat_map(|kind| {
            [
                Case::arrives("arrives", opaque(kind), reason, policy),
                Case::leaves("leaves", opaque(kind), reason, policy),
            ]
        });
        cases.collect()
    };
    let rest = "  ports: [tcp/443]\n  opaque: drop";
    let Some(mut rig) = Rig::new(&document("p", "enforce", "  opaque: pass")) else {
        return;
    };
    rig.check(&table(Reason::Opaque, None));
    let Some(mut rig) = Rig::new(&document("p", "enforce", rest)) else {
        return;
    };
    rig.check(&table(Reason::OpaqueDenied, Some("p")));
    rig.check(&[Case::arrives(
        "what is never IP passes",
        ethernet(&[], 0x88cc, &[0; 46]),
        Reason::NotIp,
        None,
    )]);
    let both = document("p", "shadow", rest) + &document("q", "enforce", "");
    let Some(mut rig) = Rig::new(&both) else {
        return;
    };
    rig.check(&table(Reason::Opaque, None));
    let Some(mut rig) = Rig::new(&document("p", "shadow", rest)) else {
        return;
    };
    let shadow = table(Reason::OpaqueDenied, Some("p"));
    rig.check(&shadow.into_iter().map(Case::in_shadow).collect::<Vec<_>>());
}

/// A tun device, say. The source's first bytes lie where Ethernet has its type: 8.0.0.0/16 reads as IPv4's.
#[test]
fn h1_packets_without_an_ethernet_header_are_judged() {
    let rest = "  deny: [192.0.2.0/24, \"2001:db8:1::/48\", 8.0.0.0/16]
  egress: {deny: [192.0.2.0/24, \"2001:db8:1::/48\", 8.0.0.0/16]}";
    let Some(mut rig) = Rig::new("") else {
        return;
    };
    rig.offline.set_bare(true);
    rig.apply(&document("p", "enforce", rest), crate::rig::START);
    let segment = tcp(1, 443, 5, ACK);
    let mut cases = Vec::new();
    let sources = [FAMILIES[0].0, FAMILIES[1].0, ip("8.0.0.2")];
    for source in sources {
        let node = crate::packets::node(source);
        let back = packet(node, source, TCP, &segment);
        cases.extend([
            Case::arrives(
                "arrives",
                packet(source, node, TCP, &segment),
                Reason::Denied,
                "p",
            ),
            Case::leaves("leaves", back, Reason::EgressDenied, "p"),
        ]);
    }
    let other = packet(ip("198.51.100.1"), NODE_V4.into(), TCP, &segment);
    cases.push(Case::arrives(
        "of another",
        other.clone(),
        Reason::WithinLimits,
        "p",
    ));
    cases.push(Case::leaves("to another", other, Reason::EgressAllowed, "p"));
    let mut neither = packet(ip("198.51.100.1"), NODE_V4.into(), TCP, &segment);
    neither[0] = 0x05;
    cases.push(Case::arrives("of no version", neither, Reason::Malformed, "p"));
    rig.check(&cases);
    rig.offline.set_bare(false);
}

/// Extension headers that nobody needs, from a source that an operator has denied or that manages the node.
#[test]
fn h2c_what_cannot_be_parsed_is_judged_by_its_source() {
    let frame = |count: usize, source: std::net::Ipv6Addr| {
        let mut header = v6(TCP);
        header.source = source;
        let header = (0..count).fold(header, |header, _| header.extended(60, 8));
        carried(&header.packet(&tcp(1, 443, 5, ACK)))
    };
    let denied = "2001:db8:1:1::1".parse().unwrap();
    let manages = "2001:db8:5::1".parse().unwrap();
    let documents = document("a", "shadow", "")
        + &document(
            "p",
            "enforce",
            "  ports: [tcp/443]\n  allow: [\"2001:db8:6::/48\"]",
        );
    for documents in [document("a", "shadow", ""), documents] {
        let Some(mut rig) = Rig::managed(&documents, &["2001:db8:5::/48"]) else {
            return;
        };
        let now_ns = enforcer_sys::clock::monotonic_ns();
        rig.at(now_ns);
        rig.offline
            .denials
            .deny(
                "2001:db8:1::/48".parse().unwrap(),
                enforcer_dataplane::DeniedBy::Operator,
                "test",
                std::time::Duration::from_secs(3600),
                enforcer_model::Action::Drop,
            )
            .unwrap();
        for count in [7, 8, 20, 64, 65, 100] {
            rig.check(&[
                Case::arrives("denied", frame(count, denied), Reason::DeniedByOperator, None),
                Case::arrives("manages", frame(count, manages), Reason::Management, None),
            ]);
        }
        let other = frame(65, "2001:db8:7::1".parse().unwrap());
        let allowed = frame(65, "2001:db8:6::1".parse().unwrap());
        if documents.contains("mode: enforce") {
            rig.check(&[
                Case::arrives("where one enforces", other, Reason::ExtensionHeaders, "p"),
                Case::arrives("allowed", allowed, Reason::Allowed, "p"),
            ]);
        } else {
            rig.check(&[
                Case::arrives("where none enforces", other, Reason::ExtensionHeaders, "a").in_shadow(),
            ]);
        }
    }
}

/// Whose port it is cannot be read, so that the base's list lets nothing by a deny list of another policy.
#[test]
fn h2c_an_allow_list_of_the_base_lets_nothing_by_a_deny_list_of_a_port() {
    let frame = |count: usize, source: &str| {
        let mut header = v6(TCP);
        header.source = source.parse().unwrap();
        let header = (0..count).fold(header, |header, _| header.extended(60, 8));
        carried(&header.packet(&tcp(1, 443, 5, ACK)))
    };
    let documents = document("a", "enforce", "  allow: [\"2001:db8::/32\"]")
        + &document(
            "p",
            "enforce",
            "  ports: [tcp/443]\n  deny: [\"2001:db8:bad::/48\"]",
        );
    let Some(mut rig) = Rig::new(&documents) else {
        return;
    };
    rig.check(&[
        Case::arrives("followed", frame(3, "2001:db8:bad::1"), Reason::Denied, "p"),
        Case::arrives(
            "not followed",
            frame(65, "2001:db8:bad::1"),
            Reason::ExtensionHeaders,
            "a",
        ),
        Case::arrives(
            "nor of others",
            frame(65, "2001:db8:6::1"),
            Reason::ExtensionHeaders,
            "a",
        ),
    ]);
}

/// A list about one port is about what may have that port.
#[test]
fn h2c_egress_lists_about_ports_hold_for_what_cannot_be_parsed() {
    for side in [Side::Node, Side::Pod] {
        let egress = "    deny: [{cidr: \"2001:db8:9::/48\", ports: tcp/443}, {cidr: \"2001:db8:8::/48\", ports: icmp}]
    allow: [{cidr: \"2001:db8::/32\", ports: tcp}]";
        let Some(mut rig) = fresh(&enforced(side, egress)) else {
            return;
        };
        let frame = |count: usize, destination: &str| {
            let mut header = v6(TCP);
            header.destination = destination.parse().unwrap();
            let header = (0..count).fold(header, |header, _| header.extended(60, 8));
            carried(&header.packet(&tcp(1, 443, 5, ACK)))
        };
        rig.check(&[
            side.sends("parsed", frame(9, "2001:db8:9::1"), Reason::EgressDenied, "p"),
            side.sends(
                "not parsed",
                frame(65, "2001:db8:9::1"),
                Reason::EgressDenied,
                "p",
            ),
            side.sends(
                "of another protocol",
                frame(65, "2001:db8:8::1"),
                Reason::EgressDenied,
                "p",
            ),
            side.sends(
                "parsed, and of another",
                frame(9, "2001:db8:8::1"),
                Reason::EgressAllowed,
                "p",
            ),
        ]);
    }
}
