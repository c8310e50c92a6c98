//! The controller under a real flood: down to the floor within seconds, and back once it is calm.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lab::{agent::Agent, frame::Payload, topology::Neighbour};
use serde_json::Value;

use crate::{
    setting::{Setting, packet_policy},
    traffic::{flood, packets},
};

const PORT: u16 = 7001;
const RATE: f64 = 4000.0;
const FLOOR: f64 = 400.0;

fn state(agent: &Agent, expected: &str) -> Result<()> {
    let metrics = agent.wait_for(expected, |metrics| {
        metrics.sum(
            "enforcer_policy_state",
            &[("policy", "edge"), ("state", expected)],
        ) == 1.0
    })?;
    // It is in one state at a time.
    ensure!(metrics.sum("enforcer_policy_state", &[("policy", "edge")]) == 1.0);
    Ok(())
}

fn adapted(agent: &Agent, expected: f64) -> Result<()> {
    agent.wait_for(&format!("the limit at {expected}/s"), |metrics| {
        let rate = metrics.sum("enforcer_adaptive_rate", &[("policy", "edge"), ("limit", "all")]);
        (rate - expected).abs() < 0.5
    })?;
    Ok(())
}

/// The lines of the log with this message.
fn logged(agent: &Agent, message: &str) -> Result<Vec<Value>> {
    let log = agent.log();
    let lines = log.lines().map(serde_json::from_str::<Value>);
    let lines: Vec<Value> = lines
        .collect::<Result<_, _>>()
        .context("a line of the log is no JSON")?;
    Ok(lines
        .into_iter()
        .filter(|line| line["message"] == message)
        .collect())
}

#[test]
fn a_flood_lowers_an_adaptive_limit_and_calm_raises_it() -> Result<()> {
    let edge = format!(
        "interfaces: [to-attacker]
  ports: [udp/{PORT}]
  limits:
    - {{name: all, per: service, rate: {RATE}/s, burst: 100, adaptive: {{floor: {FLOOR}/s}}}}"
    );
    let setting = Setting {
        edge: packet_policy("edge", &edge),
        ..Setting::default()
    };
    let Some(stage) = setting.stage()? else {
        return Ok(());
    };
    let agent = stage.agent();
    state(agent, "calm")?;
    adapted(agent, RATE)?;

    let to = SocketAddr::new(Neighbour::Attacker.node_ipv4(), PORT);
    let spoofed = IpAddr::V4(Ipv4Addr::new(100, 64, 0, 1));
    let begun = Instant::now();
    let flooding = flood(
        stage.lab(),
        Payload::Udp { bytes: 64 },
        spoofed,
        10_000,
        to,
        40_000,
    )?;
    state(agent, "attack")?;
    adapted(agent, FLOOR)?;
    let fell_in = begun.elapsed();
    ensure!(fell_in < Duration::from_secs(5), "it fell in {fell_in:?}");
    // The kernel keeps the rate that the metric names.
    let passed = || packets(agent, &[("policy", "edge"), ("verdict", "pass")]);
    let (from, before) = (Instant::now(), passed()?);
    std::thread::sleep(Duration::from_secs(1));
    let admitted = passed()? - before;
    let most = FLOOR * from.elapsed().as_secs_f64() + 100.0;
    ensure!(
        (admitted as f64) <= most,
        "{admitted} packets passed, at most {most} should have"
    );
    ensure!(
        admitted as f64 > FLOOR * 0.7,
        "{admitted} packets passed, about {FLOOR} should have"
    );
    let explained = String::from_utf8(agent.command(&["explain", "100.64.0.1"])?.stdout)?;
    let limit: Vec<&str> = explained
        .lines()
        .filter(|line| line.trim_start().starts_with("all "))
        .flat_map(str::split_whitespace)
        .collect();
    ensure!(
        limit == ["all", "service", "4000/s", "400/s", "-", "-"],
        "{explained}"
    );

    let sent = flooding.stop()?;
    ensure!(sent.packets > 40_000, "{sent:?} is no flood");
    state(agent, "calm")?;
    adapted(agent, RATE)?;
    let changes = logged(agent, "state changed")?;
    ensure!(
        changes.first().is_some_and(|change| change["from"] == "calm")
            && changes.last().is_some_and(|change| change["to"] == "calm"),
        "{changes:?}"
    );
    let attack = changes
        .iter()
        .find(|change| change["to"] == "attack")
        .context("an attack is logged")?;
    let [arrived, over] =
        ["arrived_per_second", "over_limits_per_second"].map(|field| attack[field].as_f64());
    ensure!(over > arrived.map(|arrived| arrived / 2.0 - 1.0), "{attack}");
    let moves = logged(agent, "limit adapted")?;
    let last_down = moves.iter().rfind(|step| step["to_per_second"] == FLOOR);
    let last_up = moves.last();
    ensure!(
        last_down.is_some_and(
            |step| step["cause"] == "most packets that arrive are over their limits"
                && step["state"] == "attack"
                && step["limit"] == "all"
        ),
        "{moves:?}"
    );
    ensure!(
        last_up.is_some_and(|step| step["cause"] == "calm" && step["to_per_second"] == RATE),
        "{moves:?}"
    );
    Ok(())
}
