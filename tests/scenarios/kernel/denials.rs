//! Denials at run time: by operators, and for failed authentication.

use std::time::Duration;

use enforcer_common::verdict::Reason;
use enforcer_dataplane::DeniedBy;
use enforcer_model::Action;
use enforcer_sys::clock::monotonic_ns;

use crate::{
    packets::{SYN, ip, tcp_from, udp_from},
    rig::{Case, Rig, SECOND, document},
};

const HOUR: Duration = Duration::from_secs(3600);

fn row(description: &'static str, source: &str, reason: Reason) -> Case {
    let policy = (reason == Reason::Allowed).then_some("p");
    Case::arrives(description, udp_from(ip(source), 53), reason, policy)
}

/// A packet of a source that is denied for failed authentication: in shadow it goes on to the policy.
fn concluded(mode: &str, description: &'static str, source: &str) -> Case {
    let reason = if mode == "shadow" {
        Reason::Allowed
    } else {
        Reason::DeniedForAuthentication
    };
    row(description, source, reason)
}

/// A rig whose packets are told the real time, by which denials end.
fn rig(mode: &str) -> Option<(Rig, u64)> {
    let policy = document("p", mode, "  allow: [0.0.0.0/0, \"::/0\"]");
    let mut rig = Rig::new(&policy)?;
    let now_ns = monotonic_ns();
    rig.at(now_ns);
    Some((rig, now_ns))
}

/// No policy's list is asked: a denial is somebody's decision of now. An operator's holds in every mode;
/// what the gateway concludes is enforced where the policy is.
#[test]
fn denials_come_before_lists() {
    for mode in ["enforce", "shadow"] {
        let Some((mut rig, now_ns)) = rig(mode) else {
            return;
        };
        let deny = |rig: &Rig, prefix: &str, by| {
            rig.offline
                .denials
                .deny(prefix.parse().unwrap(), by, "test", HOUR, Action::Drop)
                .unwrap();
        };
        rig.check(&[row("before", "192.0.2.1", Reason::Allowed)]);
        deny(&rig, "192.0.2.1/32", DeniedBy::Operator);
        deny(&rig, "198.51.100.0/24", DeniedBy::Authentication);
        deny(&rig, "2001:db8:1::/64", DeniedBy::Authentication);
        deny(&rig, "2001:db8:1::7/128", DeniedBy::Operator);
        rig.check(&[
            row("by the operator", "192.0.2.1", Reason::DeniedByOperator),
            Case::arrives(
                "for TCP",
                tcp_from(ip("192.0.2.1"), 443, SYN),
                Reason::DeniedByOperator,
                None,
            ),
            row("beside it", "192.0.2.2", Reason::Allowed),
            concluded(mode, "for authentication", "198.51.100.200"),
            concluded(mode, "an IPv6 network", "2001:db8:1::1"),
            row("the longest prefix", "2001:db8:1::7", Reason::DeniedByOperator),
            row("beside the network", "2001:db8:1:1::1", Reason::Allowed),
        ]);
        assert!(
            rig.offline
                .denials
                .allow("2001:db8:1::7/128".parse().unwrap())
                .unwrap()
        );
        assert!(
            rig.offline
                .denials
                .allow("192.0.2.1/32".parse().unwrap())
                .unwrap()
        );
        rig.check(&[
            row("taken back", "192.0.2.1", Reason::Allowed),
            concluded(mode, "taken back within another", "2001:db8:1::7"),
        ]);
        rig.at(now_ns + 3_610 * SECOND);
        rig.check(&[
            row("ended", "198.51.100.1", Reason::Allowed),
            row("ended", "2001:db8:1::1", Reason::Allowed),
        ]);
    }
}

#[test]
fn a_denial_that_has_ended_hides_no_other() {
    let Some((mut rig, now_ns)) = rig("enforce") else {
        return;
    };
    let deny = |prefix: &str, by, lasts| {
        rig.offline
            .denials
            .deny(prefix.parse().unwrap(), by, "test", lasts, Action::Drop)
    };
    let minute = Duration::from_secs(60);
    for by in [DeniedBy::Operator, DeniedBy::Authentication] {
        let (wide, narrow) = match by {
            DeniedBy::Operator => ("192.0.2.0/24", "192.0.2.7/32"),
            DeniedBy::Authentication => ("198.51.100.0/24", "198.51.100.7/32"),
        };
        deny(wide, by, HOUR).unwrap();
        deny(narrow, by, minute).unwrap();
    }
    deny("203.0.113.0/24", DeniedBy::Authentication, HOUR).unwrap();
    deny("203.0.113.7/32", DeniedBy::Operator, minute).unwrap();
    rig.check(&[row("both hold", "203.0.113.7", Reason::DeniedByOperator)]);
    rig.at(now_ns + 120 * SECOND);
    for (source, reason) in [
        ("192.0.2.7", Reason::DeniedByOperator),
        ("198.51.100.7", Reason::DeniedForAuthentication),
        ("203.0.113.7", Reason::DeniedForAuthentication),
    ] {
        rig.check(&[row("the wider one goes on", source, reason)]);
    }
}
