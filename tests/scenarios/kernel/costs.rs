//! What a packet costs, printed for people: `cargo test -p lab --test kernel costs -- --nocapture`.
//!
//! Nothing here asserts a time. What is asserted is that the path that is timed is the one that is named.

use std::net::SocketAddr;

use enforcer_common::verdict::{Direction, Reason, Verdict};
use enforcer_model::flow::Flow;

use crate::{
    packets::{ACK, FAMILIES, tcp_from},
    rig::{Case, Rig, document, moved},
};

const REPEAT: u32 = 1_000_000;

/// So much that a million packets at one instant pass.
const WIDE: &str = "{per: source, rate: 1000000/s, burst: 4000000}";

#[test]
fn costs() {
    let wide4 = [WIDE; 4].join(", ");
    let rows = [
        ("no policy", "  ports: [tcp/1]".to_owned(), Reason::NoPolicy),
        (
            "deny list",
            "  deny: [192.0.2.0/24, \"2001:db8::/32\"]".to_owned(),
            Reason::Denied,
        ),
        (
            "one limit, passing",
            format!("  limits: [{WIDE}]"),
            Reason::WithinLimits,
        ),
        (
            "one limit, refusing",
            "  limits: [{per: source, rate: 1/d, burst: 1}]".to_owned(),
            Reason::Limit0,
        ),
        (
            "four limits, passing",
            format!("  limits: [{wide4}]"),
            Reason::WithinLimits,
        ),
        (
            "verified",
            "  limits: [{rate: 1/d, burst: 1}]\n  verified: {rate: 1000000/s, burst: 4000000}".to_owned(),
            Reason::Verified,
        ),
    ];
    for (name, rest, reason) in rows {
        for (client, node) in FAMILIES {
            let Some(mut rig) = Rig::new(&document("p", "enforce", &rest)) else {
                return;
            };
            let flow = Flow {
                peer: SocketAddr::new(client, 40_000),
                local: SocketAddr::new(node, 443),
            };
            if reason == Reason::Verified {
                rig.enter(flow, "a");
            }
            let frame = tcp_from(client, 443, ACK);
            if reason == Reason::Limit0 {
                assert!(rig.passes(&frame));
            }
            let case = Case::arrives(name, frame, reason, (reason != Reason::NoPolicy).then_some("p"));
            let before = rig.counts();
            let (verdict, each) = rig
                .offline
                .run_often(Direction::Ingress, &case.frame, REPEAT)
                .unwrap();
            let moved = moved(&before, &rig.counts());
            assert_eq!(verdict == Verdict::Drop, reason.drops());
            assert_eq!(
                moved.get(&case.place()).map(|counter| counter.packets),
                Some(u64::from(REPEAT)),
                "{moved:?}"
            );
            println!(
                "{name:22} {:4}: {:4} ns",
                if client.is_ipv4() { "IPv4" } else { "IPv6" },
                each.as_nanos()
            );
        }
    }
}

#[test]
fn instructions() {
    let Some(mut rig) = Rig::new(&document("p", "enforce", "  ports: [tcp/1]")) else {
        return;
    };
    for (program, instructions) in rig.offline.verified_instructions().unwrap() {
        println!("{program}: {instructions} instructions verified");
        // The verifier's own bound (BPF_COMPLEXITY_LIMIT_INSNS).
        assert!((1..1_000_000).contains(&instructions));
    }
}
