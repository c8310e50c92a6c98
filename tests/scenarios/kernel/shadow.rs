//! Policies in shadow only watch: beside others that enforce they decide nothing, end nothing, and spend nothing.

use std::{net::SocketAddr, time::Duration};

use enforcer_common::verdict::{Direction, Reason, Verdict};
use enforcer_dataplane::DeniedBy;
use enforcer_model::{Action, flow::Flow};
use enforcer_sys::clock::monotonic_ns;
use lab::frame::layers::{carried, packet, tcp, udp};

use crate::{
    egress_rules::fresh,
    packets::{ACK, CLIENT_V4, NODE_V4, SYN, TCP, UDP, ip, node, tcp_from, udp_from},
    rig::{Case, Counts, Rig, SECOND, document, moved, place},
};

const HOUR: Duration = Duration::from_secs(3600);

fn deny(rig: &Rig, prefix: &str, by: DeniedBy) {
    rig.offline
        .denials
        .deny(prefix.parse().unwrap(), by, "test", HOUR, Action::Drop)
        .unwrap();
}

/// A rig that denials can be entered into: they end by the real time.
fn rig(documents: &[String]) -> Option<(Rig, u64)> {
    let mut rig = Rig::new(&documents.concat())?;
    rig.keep_to_itself();
    let now_ns = monotonic_ns();
    rig.at(now_ns);
    Some((rig, now_ns))
}

fn syn(source: &str, port: u16) -> Vec<u8> {
    tcp_from(ip(source), port, SYN)
}

/// How often a policy in shadow has said this of what arrived.
fn tried(counts: &Counts, policy: Option<&'static str>, direction: Direction, reason: Reason) -> u64 {
    let place = place(policy, direction, reason, reason.verdict(true));
    counts.get(&place).map_or(0, |count| count.packets)
}

/// A whole-host policy that is tried out must not be what decides about those who fail authentication.
#[test]
fn h2a_failing_authentication_buys_no_exemption() {
    let documents = [
        document("a", "shadow", ""),
        document(
            "p",
            "enforce",
            "  ports: [tcp/443]\n  deny: [192.0.2.0/24]\n  limits: [{per: source, rate: 1/d, burst: 1}]",
        ),
    ];
    let Some((mut rig, now_ns)) = rig(&documents) else {
        return;
    };
    rig.check(&[Case::arrives(
        "on the list",
        syn("192.0.2.7", 443),
        Reason::Denied,
        "p",
    )]);
    deny(&rig, "192.0.2.7/32", DeniedBy::Authentication);
    for port in [443, 80] {
        rig.check(&[Case::arrives(
            "denied at every port where one enforces",
            syn("192.0.2.7", port),
            Reason::DeniedForAuthentication,
            None,
        )]);
    }
    // Past the dead man an automatic denial lapses, and what follows is asked.
    rig.offline.set_alive_until(now_ns, true).unwrap();
    rig.at(now_ns + 1);
    rig.check(&[Case::arrives(
        "lapsed",
        syn("192.0.2.7", 443),
        Reason::Denied,
        "p",
    )]);
}

/// Where all are in shadow, an automatic denial is counted and nothing is passed over: neither a revocation nor the list.
#[test]
fn h2a_a_denial_in_shadow_ends_no_evaluation() {
    let Some((mut rig, _)) = rig(&[document("a", "shadow", "  deny: [192.0.2.0/24]")]) else {
        return;
    };
    deny(&rig, "192.0.2.7/32", DeniedBy::Authentication);
    let before = rig.tried();
    rig.check(&[Case::arrives("on the list", syn("192.0.2.7", 80), Reason::Denied, "a").in_shadow()]);
    let by = moved(&before, &rig.tried());
    let denied = tried(&by, None, Direction::Ingress, Reason::DeniedForAuthentication);
    assert_eq!(denied, 1, "{by:?}");
    let flow = Flow {
        peer: SocketAddr::new(ip("192.0.2.7"), 40_000),
        local: SocketAddr::new(NODE_V4.into(), 80),
    };
    assert!(rig.offline.revoked.revoke(flow, HOUR).unwrap());
    let decision = rig
        .offline
        .decide(Direction::Ingress, &syn("192.0.2.7", 80))
        .unwrap();
    assert_eq!(
        (decision.reason, decision.verdict),
        (Reason::Revoked, Verdict::Reset)
    );
}

/// The usual course of an incident: an address is denied by itself, then an operator denies its network.
#[test]
fn h2b_an_automatic_denial_hides_no_operator_s() {
    for mode in ["shadow", "enforce"] {
        let Some((mut rig, now_ns)) = rig(&[document("p", mode, "")]) else {
            return;
        };
        deny(&rig, "192.0.2.0/24", DeniedBy::Operator);
        deny(&rig, "192.0.2.7/32", DeniedBy::Authentication);
        let row = |description, source| {
            Case::arrives(
                description,
                udp_from(ip(source), 53),
                Reason::DeniedByOperator,
                None,
            )
        };
        rig.check(&[row("its network", "192.0.2.8"), row("itself", "192.0.2.7")]);
        let (prefix, found) = rig.offline.denials.find(ip("192.0.2.7")).unwrap();
        assert_eq!((prefix.prefix_len(), found.by), (24, DeniedBy::Operator));
        rig.offline.set_alive_until(now_ns, true).unwrap();
        rig.at(now_ns + 1);
        rig.check(&[row("past the dead man", "192.0.2.7")]);
        rig.offline.set_alive_until(now_ns + SECOND, true).unwrap();
        let network = "192.0.2.0/24".parse().unwrap();
        assert!(rig.offline.denials.allow(network).unwrap());
        let reason = if mode == "enforce" {
            (Reason::DeniedForAuthentication, None)
        } else {
            (Reason::WithinLimits, Some("p"))
        };
        rig.check(&[Case::arrives(
            "the operator's is taken back",
            udp_from(ip("192.0.2.7"), 53),
            reason.0,
            reason.1,
        )]);
    }
}

/// The same prefix by both: each by itself.
#[test]
fn h2b_two_denials_of_one_prefix_are_two() {
    let Some((mut rig, _)) = rig(&[document("p", "enforce", "")]) else {
        return;
    };
    deny(&rig, "192.0.2.7/32", DeniedBy::Authentication);
    deny(&rig, "192.0.2.7/32", DeniedBy::Operator);
    assert_eq!(rig.offline.denials.list().len(), 2);
    rig.check(&[Case::arrives(
        "both",
        udp_from(ip("192.0.2.7"), 53),
        Reason::DeniedByOperator,
        None,
    )]);
    assert!(
        rig.offline
            .denials
            .allow("192.0.2.7/32".parse().unwrap())
            .unwrap()
    );
    assert_eq!(rig.offline.denials.list(), []);
}

#[test]
fn h2_a_port_that_one_in_shadow_names_stays_with_the_one_that_enforces() {
    let documents = [
        document("a", "shadow", "  ports: [tcp/443]\n  allow: [192.0.2.0/24]"),
        document("b", "shadow", "  allow: [0.0.0.0/0, \"::/0\"]"),
        document("p", "enforce", "  deny: [192.0.2.0/24, \"2001:db8:1::/48\"]"),
        document(
            "q",
            "enforce",
            "  ports: [tcp/443]\n  limits: [{per: source, rate: 1/d, burst: 1}]",
        ),
    ];
    let Some(mut rig) = Rig::new(&documents.concat()) else {
        return;
    };
    let before = rig.tried();
    rig.check(&[
        Case::arrives("the first", syn("192.0.2.1", 443), Reason::WithinLimits, "q"),
        Case::arrives("over the limit", syn("192.0.2.1", 443), Reason::Limit0, "q"),
        Case::arrives("another port", syn("192.0.2.1", 80), Reason::Denied, "p"),
        Case::arrives("IPv6", syn("2001:db8:1:1::1", 80), Reason::Denied, "p"),
        Case::arrives(
            "malformed",
            {
                let mut frame = syn("198.51.100.1", 80);
                frame.truncate(50);
                frame
            },
            Reason::Truncated,
            "p",
        ),
    ]);
    let by = moved(&before, &rig.tried());
    assert_eq!(
        tried(&by, Some("a"), Direction::Ingress, Reason::Allowed),
        2,
        "{by:?}"
    );
    assert_eq!(
        tried(&by, Some("b"), Direction::Ingress, Reason::Allowed),
        2,
        "{by:?}"
    );
    assert_eq!(
        tried(&by, Some("b"), Direction::Ingress, Reason::Truncated),
        1,
        "{by:?}"
    );
}

/// What a policy in shadow charges is its own: an identity's budget, a source's share in reserve, and what is
/// remembered of UDP.
#[test]
fn h2_a_policy_in_shadow_spends_nothing_of_others() {
    let firm = "  ports: [tcp/443, udp/53]\n  verified: {rate: 1/d, burst: 2, recent: {rate: 1/d, burst: 2}}
  limits: [{per: source, rate: 1/d, burst: 1, count: connections}]";
    let trial = "  ports: [tcp/443, udp/53]\n  verified: {rate: 1/d, burst: 1, recent: {rate: 1/d, burst: 1}}
  limits: [{per: source, rate: 1/d, burst: 1, count: connections}]";
    for documents in [
        vec![document("firm", "enforce", firm)],
        vec![
            document("firm", "enforce", firm),
            document("trial", "shadow", trial),
        ],
    ] {
        let Some(mut rig) = Rig::new(&documents.concat()) else {
            return;
        };
        let flow = Flow {
            peer: SocketAddr::new(CLIENT_V4.into(), 40_000),
            local: SocketAddr::new(NODE_V4.into(), 443),
        };
        rig.enter(flow, "someone");
        rig.saw(ip("198.51.100.1"), crate::rig::START);
        let verified = || tcp_from(CLIENT_V4.into(), 443, ACK);
        let row = |description, frame, reason| Case::arrives(description, frame, reason, "firm");
        rig.check(&[
            row("its budget", verified(), Reason::Verified),
            row("its budget", verified(), Reason::Verified),
            row("over it", verified(), Reason::OverBudget),
            row("a connection", syn("198.51.100.1", 443), Reason::WithinLimits),
            row("its share", syn("198.51.100.1", 443), Reason::RecentlyVerified),
            row("its share", syn("198.51.100.1", 443), Reason::RecentlyVerified),
            row("over it", syn("198.51.100.1", 443), Reason::Limit0),
            row("a flow", udp_from(ip("198.51.100.2"), 53), Reason::WithinLimits),
            row("of it", udp_from(ip("198.51.100.2"), 53), Reason::WithinLimits),
            row(
                "another flow",
                carried(&packet(
                    ip("198.51.100.2"),
                    node(ip("198.51.100.2")),
                    UDP,
                    &udp(41_000, 53, 8, 0),
                )),
                Reason::Limit0,
            ),
        ]);
    }
}

/// A default that denies in shadow neither ends an evaluation before the limits, nor lets anything out as a reply.
#[test]
fn h2_egress_in_shadow_ends_no_evaluation() {
    let base = "  egress: {limits: [{per: interface, rate: 8kbit/s, burst: 2000}]}";
    let trial = "  ports: [tcp/2]\n  egress: {default: deny}";
    let big = || {
        let to = ip("198.51.100.7");
        carried(&packet(node(to), to, UDP, &udp(9, 9, 1_408, 1_400)))
    };
    let documents = [
        document("firm", "enforce", base),
        document("trial", "shadow", trial),
    ];
    let Some(mut rig) = fresh(&documents.concat()) else {
        return;
    };
    let row = |reason| Case::leaves("bytes", big(), reason, "firm");
    rig.check(&[row(Reason::EgressAllowed), row(Reason::EgressLimit0)]);
    let by_default = tried(
        &rig.tried(),
        Some("trial"),
        Direction::Egress,
        Reason::EgressDefault,
    );
    assert_eq!(by_default, 2);
}

/// What a default in shadow remembers is no reason for one that is enforced to let anything out.
#[test]
fn h2_egress_memory_of_shadow_is_its_own() {
    let deny = "  egress: {default: deny}";
    let Some(mut rig) = fresh(&document("trial", "shadow", deny)) else {
        return;
    };
    let arrives = carried(&packet(
        ip("198.51.100.7"),
        node(ip("198.51.100.7")),
        TCP,
        &tcp(443, 40_000, 5, SYN),
    ));
    let answer = || {
        let to = ip("198.51.100.7");
        carried(&packet(node(to), to, TCP, &tcp(40_000, 443, 5, SYN | ACK)))
    };
    rig.check(&[
        Case::arrives(
            "a stranger speaks first",
            arrives.clone(),
            Reason::WithinLimits,
            "trial",
        ),
        Case::leaves("its answer", answer(), Reason::EgressReply, "trial"),
    ]);
    rig.apply(&document("firm", "enforce", deny), crate::rig::START);
    rig.check(&[Case::leaves(
        "what was only tried",
        answer(),
        Reason::EgressDefault,
        "firm",
    )]);
    rig.check(&[
        Case::arrives("a stranger speaks first", arrives, Reason::WithinLimits, "firm"),
        Case::leaves("its answer", answer(), Reason::EgressReply, "firm"),
    ]);
}

/// Nothing is answered in shadow, whatever it is that would be.
#[test]
fn h2_in_shadow_nothing_is_reset() {
    for (mode, expected) in [("shadow", Verdict::Pass), ("enforce", Verdict::Reset)] {
        let Some((mut rig, _)) = rig(&[document("a", mode, "")]) else {
            return;
        };
        rig.offline
            .denials
            .deny(
                "192.0.2.0/24".parse().unwrap(),
                DeniedBy::Authentication,
                "test",
                HOUR,
                Action::Reset,
            )
            .unwrap();
        let (verdict, frame) = rig.offline.arrive(&syn("192.0.2.1", 80)).unwrap();
        assert_eq!(verdict, expected);
        assert_eq!(frame == syn("192.0.2.1", 80), mode == "shadow");
    }
}
