//! Limits per identity: what a verified identity has for itself, and nobody else can spend.

use std::net::{IpAddr, SocketAddr};

use enforcer_common::verdict::Reason;
use enforcer_model::flow::Flow;
use lab::frame::layers::{carried, packet, tcp};

use crate::{
    packets::{ACK, FAMILIES, SYN, TCP},
    rig::{Case, Rig, SECOND, START, document},
};

type Ends = (IpAddr, IpAddr);

/// A segment with data from `port` of the client to `to` of the node.
fn data((client, node): Ends, port: u16, to: u16) -> Vec<u8> {
    carried(&packet(client, node, TCP, &tcp(port, to, 5, ACK)))
}

fn flow((client, node): Ends, port: u16, to: u16) -> Flow {
    Flow {
        peer: SocketAddr::new(client, port),
        local: SocketAddr::new(node, to),
    }
}

fn row(description: &'static str, frame: Vec<u8>, reason: Reason) -> Case {
    Case::arrives(description, frame, reason, "p")
}

/// A row under a policy of that mode.
fn in_mode(mode: &str, case: Case) -> Case {
    if mode == "shadow" { case.in_shadow() } else { case }
}

/// Runs tables under a policy in both modes and both families, each in a rig of its own. They get a rig, the
/// ends and the mode.
fn in_both(spec: &str, run: impl Fn(&mut Rig, Ends, &str)) {
    for mode in ["enforce", "shadow"] {
        for ends in FAMILIES {
            let Some(mut rig) = Rig::new(&document("p", mode, spec)) else {
                return;
            };
            run(&mut rig, ends, mode);
        }
    }
}

#[test]
fn the_tightest_decides_and_strangers_have_none_of_it() {
    // A segment's frame is 54 bytes long, or 74: four of them are more than 212 bytes, three of them less than 223.
    let spec = "  limits: [{rate: 1/d, burst: 1}, {per: identity, rate: 1/d, burst: 9}, {per: identity, count: bytes, rate: 1B/s, burst: 222}]
  verified: {rate: 10/s, burst: 4, recent: off}";
    in_both(spec, |rig, ends, mode| {
        let run = |rig: &mut Rig, rows: &[(&'static str, u16, Reason)]| {
            let rows: Vec<Case> = rows
                .iter()
                .map(|(description, port, reason)| {
                    in_mode(mode, row(description, data(ends, *port, 443), *reason))
                })
                .collect();
            rig.check(&rows);
        };
        rig.enter(flow(ends, 1, 443), "a");
        run(
            rig,
            &[
                ("a stranger's first", 9, Reason::WithinLimits),
                ("a stranger's second", 9, Reason::Limit0),
                ("a stranger's third", 9, Reason::Limit0),
                ("verified", 1, Reason::Verified),
                ("a stranger spends nothing of that", 9, Reason::Limit0),
                ("verified", 1, Reason::Verified),
                ("verified", 1, Reason::Verified),
            ],
        );
        // What is left are 60 bytes of 222, or none.
        let of_bytes = if ends.0.is_ipv4() {
            Reason::Verified
        } else {
            Reason::Limit2
        };
        run(rig, &[("the bytes are used up first by IPv6", 1, of_bytes)]);
        let after = if ends.0.is_ipv4() {
            Reason::OverBudget
        } else {
            Reason::Limit2
        };
        run(rig, &[("and by IPv4 the budget", 1, after)]);
        // Of the nine packets, three or four are spent: refusals charge nothing.
        let without_bytes = "  limits: [{rate: 1/d, burst: 1}, {per: identity, rate: 1/d, burst: 9}]\n  verified: {rate: 1G/s, burst: 1000, recent: off}";
        rig.apply(&document("p", mode, without_bytes), START);
        rig.at(START + SECOND);
        for _ in 0..(if ends.0.is_ipv4() { 5 } else { 6 }) {
            run(rig, &[("the rest of nine", 1, Reason::Verified)]);
        }
        run(rig, &[("the tenth", 1, Reason::Limit1)]);
    });
}

#[test]
fn every_algorithm_keeps_exactly_its_burst() {
    for limit in [
        "rate: 1/d, burst: 3",
        "rate: 1/d, burst: 3, algorithm: leaky-bucket",
        "rate: 3/d, algorithm: fixed-window",
        "rate: 3/d, algorithm: sliding-window",
    ] {
        let spec = format!("  limits: [{{per: identity, {limit}}}]\n  verified: {{recent: off}}");
        in_both(&spec, |rig, ends, mode| {
            rig.enter(flow(ends, 1, 443), "a");
            rig.enter(flow(ends, 2, 443), "b");
            let rows = |port| {
                [
                    Reason::Verified,
                    Reason::Verified,
                    Reason::Verified,
                    Reason::Limit0,
                ]
                .map(|reason| in_mode(mode, row("three", data(ends, port, 443), reason)))
            };
            rig.check(&rows(1));
            // Another identity has its own.
            rig.check(&rows(2));
            rig.check(&[in_mode(
                mode,
                row(
                    "a stranger is under none",
                    data(ends, 9, 443),
                    Reason::WithinLimits,
                ),
            )]);
        });
    }
}

#[test]
fn each_policy_has_its_own_and_connections_share_it() {
    let spec =
        |port: u16| format!("  ports: [tcp/{port}]\n  limits: [{{per: identity, rate: 1/d, burst: 2}}]");
    for ends in FAMILIES {
        let documents = [
            document("p", "enforce", &spec(443)),
            document("q", "enforce", &spec(80)),
        ];
        let Some(mut rig) = Rig::new(&documents.concat()) else {
            return;
        };
        for (port, to) in [(1, 443), (2, 443), (3, 80)] {
            rig.enter(flow(ends, port, to), "a");
        }
        let to_q = |reason| Case::arrives("the other policy's", data(ends, 3, 80), reason, "q");
        rig.check(&[
            row("one connection", data(ends, 1, 443), Reason::Verified),
            row(
                "another of the same identity",
                data(ends, 2, 443),
                Reason::Verified,
            ),
            row("shares it", data(ends, 1, 443), Reason::Limit0),
            row("both ways", data(ends, 2, 443), Reason::Limit0),
            to_q(Reason::Verified),
            to_q(Reason::Verified),
            to_q(Reason::Limit0),
        ]);
    }
}

#[test]
fn a_limit_that_comes_anew_is_full() {
    let ends = FAMILIES[0];
    let with = |name: &str| {
        let limit = format!("  limits: [{{name: {name}, per: identity, rate: 1/d, burst: 2}}]");
        document("p", "enforce", &limit)
    };
    let Some(mut rig) = Rig::new(&with("x")) else {
        return;
    };
    rig.enter(flow(ends, 1, 443), "a");
    let frame = data(ends, 1, 443);
    assert_eq!(rig.passing(3, &frame), 2);
    rig.apply(&with("x"), START);
    assert_eq!(rig.passing(3, &frame), 0, "the same limit");
    // It may have the cells of the other, and none of its states.
    rig.apply(&document("p", "enforce", ""), START);
    rig.apply(&with("y"), START);
    assert_eq!(rig.passing(3, &frame), 2, "another limit");
}

#[test]
fn a_syn_spends_nothing_of_it() {
    for ends in FAMILIES {
        let spec = "  limits: [{per: identity, rate: 1/d, burst: 1}, {rate: 1/d, burst: 1}]\n  verified: {recent: off}";
        let Some(mut rig) = Rig::new(&document("p", "enforce", spec)) else {
            return;
        };
        rig.enter(flow(ends, 1, 443), "a");
        let syn = carried(&packet(ends.0, ends.1, TCP, &tcp(1, 443, 5, SYN)));
        rig.check(&[
            row("as a stranger's", syn.clone(), Reason::WithinLimits),
            row("and the second", syn, Reason::Limit1),
            row("data", data(ends, 1, 443), Reason::Verified),
            row("more of it", data(ends, 1, 443), Reason::Limit0),
        ]);
    }
}

#[test]
fn sixteen_limits_per_identity_are_too_many() {
    let documents: String = (0..4)
        .map(|number| {
            let limits = ["{per: identity, rate: 1/s}"; 4].join(", ");
            document(
                &format!("p{number}"),
                "enforce",
                &format!("  ports: [tcp/{}]\n  limits: [{limits}]", 1_000 + number),
            )
        })
        .collect();
    let Some(mut rig) = Rig::new("") else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policies.yaml");
    std::fs::write(&file, documents).unwrap();
    let set = enforcer_policy::load(&[file]).unwrap().set;
    let error = rig
        .offline
        .apply(
            &std::sync::Arc::new(set),
            crate::rig::INTERFACE,
            crate::rig::wall(),
            START,
        )
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "too many limits per identity, in all policies together: the bound is 15"
    );
}
