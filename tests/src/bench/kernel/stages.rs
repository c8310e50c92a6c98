//! Nanoseconds per packet by stage: one packet a million times through `BPF_PROG_TEST_RUN`, in the best
//! of twenty runs. The clock is the injected one.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Result, bail};
use enforcer_common::verdict::{Direction, Verdict};
use enforcer_dataplane::{Config, Offline, XdpChoice};
use enforcer_model::flow::{Flow, Identity};
use serde::Serialize;
use time::OffsetDateTime;

use super::{
    contenders,
    link::{INTERFACE, NODE},
    traffic::PORT,
};
use crate::frame::{self, Link, Payload};

/// A million in all, in runs of which some are not interrupted: the best counts.
const REPEAT: u32 = 50_000;
const RUNS: usize = 20;
const SOURCE: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
const SOURCE_PORT: u16 = 40_000;

/// One row.
#[derive(Debug, Serialize)]
pub(super) struct Stage {
    pub(super) stage: &'static str,
    pub(super) verdict: &'static str,
    pub(super) ns: f64,
}

struct Case {
    stage: &'static str,
    policy: &'static str,
    payload: Payload,
    verdict: Verdict,
}

const UDP: Payload = Payload::Udp { bytes: 18 };
const LOOSE: &str = "rate: 900M/s, burst: 9000000";
const TIGHT: &str = "rate: 1/h, burst: 1";

/// Measures every stage.
pub(super) fn measure() -> Result<Vec<Stage>> {
    let mut offline = Offline::load(&Config {
        xdp: XdpChoice::Auto,
        management: Vec::new(),
        sketch_bytes: 4 << 20,
        max_flows: 1_024,
    })?;
    let flow = Flow {
        peer: SocketAddr::from((SOURCE, SOURCE_PORT)),
        local: SocketAddr::from((NODE, PORT)),
    };
    let mut stages = Vec::new();
    let mut now = enforcer_sys::clock::monotonic_ns();
    for case in cases() {
        let set = contenders::parse(&policy(case.policy))?;
        // Whatever the case before has used is forgotten.
        now += 3_600_000_000_000;
        offline.apply(&Arc::new(set), INTERFACE, OffsetDateTime::now_utc(), now)?;
        offline.set_time(now)?;
        offline
            .flows
            .enter(flow, &Identity::Certificate("spiffe://bench.example/a".into()))?;
        let link = Link {
            from: [2, 0, 0, 0, 0, 1],
            to: [2, 0, 0, 0, 0, 2],
        };
        let mut bytes = frame::build(link, flow.peer, flow.local, case.payload)?;
        bytes.resize(64, 0);
        let mut times = Vec::new();
        for _ in 0..RUNS {
            let (verdict, each): (Verdict, Duration) =
                offline.run_often(Direction::Ingress, &bytes, REPEAT)?;
            if verdict != case.verdict {
                bail!(
                    "{}: the verdict is {}, not {}",
                    case.stage,
                    verdict.name(),
                    case.verdict.name()
                );
            }
            times.push(each.as_nanos() as f64);
        }
        stages.push(Stage {
            stage: case.stage,
            verdict: case.verdict.name(),
            ns: times.iter().copied().fold(f64::INFINITY, f64::min),
        });
    }
    Ok(stages)
}

fn cases() -> [Case; 8] {
    let case = |stage, policy, payload, verdict| Case {
        stage,
        policy,
        payload,
        verdict,
    };
    [
        case("no policy", "", UDP, Verdict::Pass),
        case("service without limits", "ports: [udp/443]", UDP, Verdict::Pass),
        case(
            "access list, denied",
            "deny: [{cidr: 100.64.0.0/24}]",
            UDP,
            Verdict::Drop,
        ),
        case(
            "access list, not on it",
            "deny: [{cidr: 100.65.0.0/24}]",
            UDP,
            Verdict::Pass,
        ),
        case("one limit, conforms", "L", UDP, Verdict::Pass),
        case("one limit, over it", "T", UDP, Verdict::Drop),
        case("four limits, conforms", "LLLL", UDP, Verdict::Pass),
        case("verified connection", "V", Payload::TcpAck, Verdict::Pass),
    ]
}

/// `L` stands for a limit that is never reached, `T` for one that always is, `V` for a budget.
fn policy(what: &str) -> String {
    let mut text =
        String::from("apiVersion: enforcer.dev/v1\nkind: PacketPolicy\nmetadata: {name: bench}\nspec:\n");
    if what.is_empty() {
        return text + "  interfaces: [elsewhere0]\n  deny: [{cidr: 192.0.2.0/24}]\n";
    }
    text.push_str(&format!("  interfaces: [{INTERFACE}]\n"));
    match what {
        "V" => text.push_str("  verified: {rate: 900M/s, burst: 9000000}\n"),
        "L" | "T" | "LLLL" => {
            let budget = if what == "T" { TIGHT } else { LOOSE };
            text.push_str("  limits:\n");
            for number in 0..what.len() {
                text.push_str(&format!(
                    "    - {{name: limit-{number}, per: source, count: packets, algorithm: token-bucket, {budget}}}\n"
                ));
            }
        }
        other => text.push_str(&format!("  {other}\n")),
    }
    text
}
