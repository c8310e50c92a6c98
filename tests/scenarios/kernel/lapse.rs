//! The dead-man switch: what lapses when nothing has been heard of the agent, and what holds on.

use std::time::Duration;

use enforcer_common::verdict::Reason;
use enforcer_dataplane::DeniedBy;
use enforcer_model::Action;
use enforcer_sys::clock::monotonic_ns;
use lab::frame::layers::{carried, packet, tcp};

use crate::{
    packets::{ACK, TCP, ip, node, udp_from},
    rig::{Case, Rig, SECOND, document},
};

const RULES: &str = "  allow: [203.0.113.0/24]\n  deny: [198.51.100.0/24]\n  egress: {deny: [198.51.100.0/24]}\n  limits: [{per: source, rate: 1/d, burst: 1}]";

fn row(description: &'static str, source: &str, reason: Reason) -> Case {
    let of_policy = !matches!(
        reason,
        Reason::DeniedByOperator | Reason::DeniedForAuthentication | Reason::Management
    );
    Case::arrives(
        description,
        udp_from(ip(source), 53),
        reason,
        of_policy.then_some("p"),
    )
}

fn leaving(description: &'static str, reason: Reason) -> Case {
    let destination = ip("198.51.100.1");
    let segment = tcp(443, 40_000, 5, ACK);
    let frame = carried(&packet(node(destination), destination, TCP, &segment));
    Case::leaves(description, frame, reason, "p")
}

/// A rig at the real time, by which denials end, with one of each kind.
fn rig(mode: &str) -> Option<(Rig, u64)> {
    let mut rig = Rig::new(&document("p", mode, RULES))?;
    let now_ns = monotonic_ns();
    rig.at(now_ns);
    for (prefix, by) in [
        ("192.0.2.1/32", DeniedBy::Operator),
        ("192.0.2.2/32", DeniedBy::Authentication),
    ] {
        let hour = Duration::from_secs(3600);
        rig.offline
            .denials
            .deny(prefix.parse().unwrap(), by, "test", hour, Action::Drop)
            .unwrap();
    }
    Some((rig, now_ns))
}

/// Leaves the programs as others expect them.
fn finish(mut rig: Rig) {
    rig.offline.set_alive_until(u64::MAX, true).unwrap();
    for prefix in ["192.0.2.1/32", "192.0.2.2/32"] {
        assert!(rig.offline.denials.allow(prefix.parse().unwrap()).unwrap());
    }
}

#[test]
fn limits_lapse_and_return_and_deny_lists_hold_on() {
    let Some((mut rig, now_ns)) = rig("enforce") else {
        return;
    };
    rig.offline.set_alive_until(now_ns, true).unwrap();
    rig.check(&[
        row("alive to the last", "192.0.2.3", Reason::WithinLimits),
        row("and limited", "192.0.2.3", Reason::Limit0),
        row(
            "denied by the agent itself",
            "192.0.2.2",
            Reason::DeniedForAuthentication,
        ),
    ]);
    rig.at(now_ns + 1);
    rig.check(&[
        row("limits lapse", "192.0.2.3", Reason::AgentGone),
        row("automatic denials lapse", "192.0.2.2", Reason::AgentGone),
        row(
            "an operator's denial holds",
            "192.0.2.1",
            Reason::DeniedByOperator,
        ),
        row("a deny list holds", "198.51.100.1", Reason::Denied),
        row("an allow list says so", "203.0.113.1", Reason::Allowed),
        leaving("an egress list holds", Reason::EgressDenied),
    ]);
    rig.offline.set_alive_until(now_ns + SECOND, true).unwrap();
    rig.check(&[
        row("limits return as they were", "192.0.2.3", Reason::Limit0),
        row("denials return", "192.0.2.2", Reason::DeniedForAuthentication),
    ]);
    finish(rig);
}

#[test]
fn all_denials_lapse_where_that_is_wanted() {
    let Some((mut rig, now_ns)) = rig("enforce") else {
        return;
    };
    rig.offline.set_alive_until(now_ns, false).unwrap();
    rig.check(&[
        row("alive", "192.0.2.1", Reason::DeniedByOperator),
        row("alive", "198.51.100.1", Reason::Denied),
        leaving("alive", Reason::EgressDenied),
    ]);
    rig.at(now_ns + 1);
    rig.check(&[
        row("an operator's denial lapses", "192.0.2.1", Reason::AgentGone),
        row("a deny list lapses", "198.51.100.1", Reason::AgentGone),
        row("an allow list says so", "203.0.113.1", Reason::Allowed),
        leaving("an egress list lapses", Reason::EgressAllowed),
    ]);
    finish(rig);
}

/// What would not be dropped anyway is not counted as if it would.
#[test]
fn in_shadow_it_lapses_too() {
    let Some((mut rig, now_ns)) = rig("shadow") else {
        return;
    };
    rig.offline.set_alive_until(now_ns, true).unwrap();
    rig.at(now_ns + 1);
    rig.check(&[
        row("limits lapse", "192.0.2.3", Reason::AgentGone),
        row("a deny list is tried", "198.51.100.1", Reason::Denied).in_shadow(),
    ]);
    finish(rig);
}
