//! From one generation of policies to the next.

use enforcer_common::verdict::Reason;

use crate::{
    packets::{ip, udp_from},
    rig::{Case, Rig, START, document},
};

fn row(source: &str, reason: Reason) -> Case {
    Case::arrives("a packet", udp_from(ip(source), 53), reason, "p")
}

#[test]
fn limiters_and_counters_go_on() {
    for limit in [
        "{per: source, rate: 1/d, burst: 3}",
        "{per: service, rate: 1/d, burst: 3}",
        "{per: interface, rate: 1/d, burst: 3}",
        "{per: source, rate: 3/m, algorithm: fixed-window}",
    ] {
        let rest = format!("  limits: [{limit}]");
        let Some(mut rig) = Rig::new(&document("p", "enforce", &rest)) else {
            return;
        };
        rig.check(&[
            row("192.0.2.1", Reason::WithinLimits),
            row("192.0.2.1", Reason::WithinLimits),
        ]);
        let before = rig.counts();
        // Another policy beside it changes its neighbours and its slot, and not its state.
        let beside = document("a", "enforce", "  ports: [tcp/1]\n  limits: [{rate: 9/s}]");
        rig.apply(&(beside + &document("p", "enforce", &rest)), START);
        assert_eq!(rig.counts(), before);
        rig.check(&[
            row("192.0.2.1", Reason::WithinLimits),
            row("192.0.2.1", Reason::Limit0),
        ]);
        rig.apply(&document("p", "shadow", &rest), START);
        rig.check(&[row("192.0.2.1", Reason::Limit0).in_shadow()]);
    }
}

#[test]
fn a_larger_burst_is_added_to_what_was_used() {
    let rest = |burst| {
        document(
            "p",
            "enforce",
            &format!("  limits: [{{per: source, rate: 1/d, burst: {burst}}}]"),
        )
    };
    let Some(mut rig) = Rig::new(&rest(3)) else { return };
    assert_eq!(rig.passing(9, &udp_from(ip("192.0.2.1"), 53)), 3);
    rig.apply(&rest(5), START);
    assert_eq!(rig.passing(9, &udp_from(ip("192.0.2.1"), 53)), 2);
}

#[test]
fn a_policy_that_comes_back_begins_anew() {
    let rest = document("p", "enforce", "  limits: [{per: source, rate: 1/d, burst: 3}]");
    let Some(mut rig) = Rig::new(&rest) else { return };
    assert_eq!(rig.passing(9, &udp_from(ip("192.0.2.1"), 53)), 3);
    rig.apply(&document("other", "enforce", "  ports: [tcp/1]"), START);
    rig.check(&[Case::arrives(
        "gone",
        udp_from(ip("192.0.2.1"), 53),
        Reason::NoPolicy,
        None,
    )]);
    rig.apply(&rest, START);
    rig.check(&[row("192.0.2.1", Reason::WithinLimits)]);
}

#[test]
fn a_shared_limiter_is_nobody_elses_later() {
    for per in ["service", "interface"] {
        let limit = |name, limit| document(name, "enforce", &format!("  limits: [{{per: {per}, {limit}}}]"));
        let Some(mut rig) = Rig::new(&limit("strict", "rate: 1/h, burst: 2")) else {
            return;
        };
        assert_eq!(rig.passing(9, &udp_from(ip("192.0.2.1"), 53)), 2);
        rig.apply(&limit("lax", "rate: 100/s, burst: 5"), START);
        rig.apply(&limit("laxer", "rate: 100/s, burst: 5"), START);
        assert_eq!(rig.passing(9, &udp_from(ip("192.0.2.1"), 53)), 5, "{per}");
    }
}

/// Two slots take turns; what one held two generations ago is gone.
#[test]
fn lists_are_those_of_the_generation_in_force() {
    let networks = [
        "192.0.2.0/24",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "\"2001:db8:a::/48\"",
        "192.0.2.0/25",
    ];
    let sources = [
        "192.0.2.1",
        "198.51.100.1",
        "203.0.113.1",
        "2001:db8:a::1",
        "192.0.2.1",
    ];
    let rest = |network| document("p", "enforce", &format!("  deny: [{network}]"));
    let Some(mut rig) = Rig::new(&rest(networks[0])) else {
        return;
    };
    for (denied, network) in networks.iter().enumerate() {
        rig.apply(&rest(network), START);
        let reason = |source: &str| {
            if source == sources[denied] {
                Reason::Denied
            } else {
                Reason::WithinLimits
            }
        };
        rig.check(&sources.map(|source| row(source, reason(source))));
    }
    rig.apply(&document("p", "enforce", "  ports: [tcp/1]"), START);
    rig.check(&[Case::arrives(
        "no list, other ports",
        udp_from(ip("192.0.2.1"), 53),
        Reason::NoPolicy,
        None,
    )]);
}

#[test]
fn faults_5_only_what_differs_is_written() {
    let lists = |last: u8| {
        let denied: Vec<String> = (0..200).map(|host| format!("198.51.100.{host}/32")).collect();
        let rest = format!(
            "  deny: [{}, 192.0.2.{last}/32, {{cidr: 203.0.113.0/24, until: \"2099-01-01T00:00:00Z\"}}]\n  \
             egress: {{deny: [198.18.{last}.0/24]}}",
            denied.join(", ")
        );
        document("p", "enforce", &rest)
    };
    let Some(mut rig) = Rig::new(&lists(1)) else {
        return;
    };
    rig.apply(&lists(1), START);
    assert!(rig.offline.store.writes() > 200, "the other slot was empty");
    // Both slots hold the same now.
    for _ in 0..2 {
        rig.apply(&lists(1), START);
        assert_eq!(rig.offline.store.writes(), 0);
    }
    for (last, gone) in [(2, 1), (3, 2), (1, 3)] {
        rig.apply(&lists(last), START);
        let writes = rig.offline.store.writes();
        assert!((1..=8).contains(&writes), "{writes}");
        rig.check(&[
            row(&format!("192.0.2.{last}"), Reason::Denied),
            row("198.51.100.7", Reason::Denied),
            row("203.0.113.7", Reason::Denied),
            row(&format!("192.0.2.{gone}"), Reason::WithinLimits),
        ]);
    }
}
