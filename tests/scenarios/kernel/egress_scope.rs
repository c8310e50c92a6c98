//! What is judged by itself: lists that end, policies in shadow, the two sides of an interface, management, lapse.

use enforcer_common::verdict::{Direction, Reason, Verdict};
use time::{Duration, format_description::well_known::Rfc3339};

use crate::{
    egress_rules::{Side, fresh, tcp_to, udp_to},
    rig::{Case, Rig, SECOND, START, document, place, wall},
};

#[test]
fn a_list_that_ends_gives_back_what_it_took() {
    let until = |seconds| (wall() + Duration::seconds(seconds)).format(&Rfc3339).unwrap();
    let egress = format!(
        "  egress:
    default: deny
    allow: [{{cidr: 10.0.0.0/8, ports: tcp}}, 10.1.2.3/32]
    deny:
      - {{cidr: 10.1.0.0/16, ports: tcp/80, until: \"{}\"}}
      - {{cidr: 10.1.2.0/24, until: \"{}\"}}
      - {{cidr: 192.0.2.0/24, until: \"{}\"}}",
        until(100),
        until(10),
        until(10),
    );
    let Some(mut rig) = fresh(&document("p", "enforce", &egress)) else {
        return;
    };
    let row = |port, reason| Case::leaves("an address in all of them", tcp_to("10.1.2.3", port), reason, "p");
    let other = |reason| Case::leaves("one that nothing allows", tcp_to("192.0.2.1", 1), reason, "p");
    rig.check(&[
        row(80, Reason::EgressDenied),
        row(81, Reason::EgressDenied),
        other(Reason::EgressDenied),
    ]);
    rig.at(START + 10 * SECOND);
    rig.check(&[
        row(80, Reason::EgressDenied),
        row(81, Reason::EgressAllowed),
        other(Reason::EgressDefault),
    ]);
    rig.at(START + 100 * SECOND);
    rig.check(&[row(80, Reason::EgressAllowed)]);
}

/// What is tried out neither opens what is closed nor closes what is open.
#[test]
fn a_policy_in_shadow_changes_nothing_that_is_enforced() {
    let documents = [
        document(
            "firm",
            "enforce",
            "  ports: [tcp/1]
  egress:
    default: deny
    allow: [{cidr: 10.0.0.0/8, ports: tcp}]
    deny: [10.6.0.0/16]",
        ),
        document(
            "trial",
            "shadow",
            "  ports: [tcp/2]
  egress:
    default: deny
    allow: [192.0.2.0/24, 10.6.0.0/16]
    deny: [{cidr: 10.0.0.0/8, ports: tcp/80}]",
        ),
    ];
    let Some(mut rig) = fresh(&documents.concat()) else {
        return;
    };
    rig.check(&[
        Case::leaves("allowed", tcp_to("10.0.0.1", 443), Reason::NoPolicy, None),
        Case::leaves("denied in shadow", tcp_to("10.0.0.1", 80), Reason::NoPolicy, None),
        Case::leaves(
            "allowed in shadow alone",
            tcp_to("192.0.2.1", 443),
            Reason::EgressDefault,
            "firm",
        ),
        Case::leaves(
            "denied, and allowed in shadow",
            tcp_to("10.6.0.1", 443),
            Reason::EgressDenied,
            "firm",
        ),
        Case::leaves(
            "not allowed",
            udp_to("10.0.0.1", 443),
            Reason::EgressDefault,
            "firm",
        ),
    ]);
    let documents = [
        document(
            "firm",
            "enforce",
            "  ports: [tcp/1]\n  egress: {allow: [192.0.2.0/24], deny: [10.6.0.0/16]}",
        ),
        document(
            "trial",
            "shadow",
            "  ports: [tcp/2]\n  egress: {default: deny, allow: [10.0.0.0/8]}",
        ),
    ];
    let Some(mut rig) = fresh(&documents.concat()) else {
        return;
    };
    rig.check(&[
        Case::leaves("denied", tcp_to("10.6.0.1", 1), Reason::EgressDenied, "firm"),
        Case::leaves("allowed by one", tcp_to("192.0.2.1", 1), Reason::NoPolicy, None),
        Case::leaves(
            "allowed by the other",
            tcp_to("10.0.0.1", 1),
            Reason::NoPolicy,
            None,
        ),
        Case::leaves(
            "allowed by none",
            tcp_to("198.51.100.1", 1),
            Reason::NoPolicy,
            None,
        ),
    ]);
    let by_default = place(
        Some("trial"),
        Direction::Egress,
        Reason::EgressDefault,
        Verdict::Shadow,
    );
    assert_eq!(rig.tried().get(&by_default).map(|count| count.packets), Some(1));
}

/// Node and pod are two sides of an interface, with rules of their own.
#[test]
fn the_two_sides_of_an_interface_are_judged_by_themselves() {
    let documents = [
        document(
            "host",
            "enforce",
            "  ports: [tcp/1]\n  egress: {default: deny, allow: [10.0.0.0/8]}",
        ),
        document(
            "pod",
            "enforce",
            "  ports: [tcp/2]\n  egress: {of: pod, default: deny, allow: [192.0.2.0/24]}",
        ),
    ];
    let Some(mut rig) = fresh(&documents.concat()) else {
        return;
    };
    rig.check(&[
        Case::leaves("of the node", tcp_to("10.0.0.1", 9), Reason::ToPod, None),
        Case::leaves(
            "of the node, the pod's",
            tcp_to("192.0.2.1", 9),
            Reason::EgressDefault,
            "host",
        ),
        Case::leaves_pod("of the pod", tcp_to("192.0.2.1", 9), Reason::NoPolicy, None),
        Case::leaves_pod(
            "of the pod, the node's",
            tcp_to("10.0.0.1", 9),
            Reason::EgressDefault,
            "pod",
        ),
    ]);
}

/// A node answers whoever manages it. A pod manages nothing, and has no way there by itself.
#[test]
fn management_is_the_nodes() {
    for (side, reason, policy) in [
        (Side::Node, Reason::Management, None),
        (Side::Pod, Reason::EgressDefault, Some("p")),
    ] {
        let rest = format!("  egress: {{{}, default: deny}}", side.of());
        let Some(mut rig) = Rig::managed(&document("p", "enforce", &rest), &["192.0.2.0/24"]) else {
            return;
        };
        rig.check(&[side.sends("to an operator", tcp_to("192.0.2.9", 40_000), reason, policy)]);
    }
}

#[test]
fn defaults_lapse_with_the_lists_where_that_is_configured() {
    let Some(mut rig) = fresh(&document(
        "p",
        "enforce",
        "  egress: {default: deny, deny: [192.0.2.0/24]}",
    )) else {
        return;
    };
    let rows = |listed, default| {
        [
            Case::leaves("on a list", tcp_to("192.0.2.1", 1), listed, "p"),
            Case::leaves("on none", tcp_to("198.51.100.1", 1), default, "p"),
        ]
    };
    rig.offline.set_alive_until(START - 1, true).unwrap();
    rig.check(&rows(Reason::EgressDenied, Reason::EgressDefault));
    rig.offline.set_alive_until(START - 1, false).unwrap();
    rig.check(&rows(Reason::EgressAllowed, Reason::EgressAllowed));
    rig.offline.set_alive_until(u64::MAX, true).unwrap();
    rig.check(&rows(Reason::EgressDenied, Reason::EgressDefault));
}
