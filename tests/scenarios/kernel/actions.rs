//! Which rule's `action` holds for what it ends.

use std::{net::IpAddr, time::Duration};

use enforcer_common::verdict::{Direction, Reason, Verdict};
use enforcer_dataplane::DeniedBy;
use enforcer_model::Action;
use enforcer_sys::clock::monotonic_ns;
use lab::frame::layers::{carried, packet};

use crate::{
    packets::{ACK, CLIENT_V4, CLIENT_V6, NODE_V4, NODE_V6, SYN, TCP, v4, v6},
    resets::answers::segment,
    rig::{Rig, document},
};

/// Each rule has its own action, which that of the policy stands in for.
#[test]
fn rules_say_what_becomes_of_what_they_end() {
    let entry = |cidr, action: &str| format!("{{cidr: {cidr}{action}}}");
    for (policy, entries, expected) in [
        ("", "", Verdict::Drop),
        ("  action: drop\n", "", Verdict::Drop),
        ("  action: reset\n", "", Verdict::Reset),
        ("", ", action: reset", Verdict::Reset),
        ("  action: reset\n", ", action: drop", Verdict::Drop),
    ] {
        let deny = format!("{policy}  deny: [{}]", entry("192.0.2.0/24", entries));
        let limit = format!("{policy}  limits: [{{rate: 1/d, burst: 1{entries}}}]");
        for (rules, reason, first) in [(deny, Reason::Denied, false), (limit, Reason::Limit0, true)] {
            let Some(mut rig) = Rig::new(&document("p", "enforce", &rules)) else {
                return;
            };
            let asked = carried(&v4(TCP).packet(&segment(SYN, 5, 0)));
            if first {
                assert!(rig.passes(&asked));
            }
            let decision = rig.offline.decide(Direction::Ingress, &asked).unwrap();
            assert_eq!((decision.verdict, decision.reason), (expected, reason), "{rules}");
        }
    }
}

#[test]
fn each_of_several_limits_has_its_own_action() {
    let limits = "  limits:
    - {count: connections, rate: 1/d, burst: 1}
    - {count: packets, rate: 1/d, burst: 2, action: reset}";
    let Some(mut rig) = Rig::new(&document("p", "enforce", limits)) else {
        return;
    };
    let syn = carried(&v6(TCP).packet(&segment(SYN, 5, 0)));
    let data = carried(&v6(TCP).packet(&segment(ACK, 5, 9)));
    let rows = [
        (&syn, Verdict::Pass, Reason::WithinLimits),
        (&syn, Verdict::Drop, Reason::Limit0),
        (&data, Verdict::Pass, Reason::WithinLimits),
        (&data, Verdict::Reset, Reason::Limit1),
    ];
    for (asked, verdict, reason) in rows {
        let decision = rig.offline.decide(Direction::Ingress, asked).unwrap();
        assert_eq!((decision.verdict, decision.reason), (verdict, reason));
    }
}

#[test]
fn an_operators_denial_may_be_told() {
    let Some(mut rig) = Rig::new(&document("p", "enforce", "  ports: [tcp/1]")) else {
        return;
    };
    rig.at(monotonic_ns());
    let hour = Duration::from_secs(3_600);
    for (prefix, action) in [
        ("192.0.2.1/32", Action::Drop),
        ("2001:db8:1:1::1/128", Action::Reset),
    ] {
        rig.offline
            .denials
            .deny(prefix.parse().unwrap(), DeniedBy::Operator, "test", hour, action)
            .unwrap();
    }
    for (source, node, verdict) in [
        (IpAddr::V4(CLIENT_V4), IpAddr::V4(NODE_V4), Verdict::Drop),
        (IpAddr::V6(CLIENT_V6), IpAddr::V6(NODE_V6), Verdict::Reset),
    ] {
        let asked = carried(&packet(source, node, TCP, &segment(ACK, 5, 0)));
        let decision = rig.offline.decide(Direction::Ingress, &asked).unwrap();
        assert_eq!(
            (decision.verdict, decision.reason),
            (verdict, Reason::DeniedByOperator)
        );
    }
    for prefix in ["192.0.2.1/32", "2001:db8:1:1::1/128"] {
        assert!(rig.offline.denials.allow(prefix.parse().unwrap()).unwrap());
    }
}
