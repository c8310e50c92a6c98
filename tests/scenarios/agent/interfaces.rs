//! Interfaces that come and go while the agent runs.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Result, ensure};
use lab::topology::Neighbour;
use serde_json::{Value, json};

use crate::{
    hooks::Hooks,
    setting::{EDGE, Setting, json as answer_of, packet_policy, put_in_force, wait_until},
    traffic::{Sink, expect_arrivals},
};

const PORT: u16 = 7001;
const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 204, 0, 1));

#[test]
fn interfaces_that_match_are_followed_as_they_come_and_go() -> Result<()> {
    let edge = format!(
        "interfaces: [\"late*\", named0]
  ports: [udp/{PORT}]
  limits:
    - {{name: per-source, per: source, rate: 1/m, burst: 5}}"
    );
    let setting = Setting {
        edge: packet_policy("edge", &edge),
        ..Setting::default()
    };
    let Some(stage) = setting.stage()? else {
        return Ok(());
    };
    let (agent, node) = (stage.agent(), stage.lab().node());
    let peer = stage.lab().neighbour(Neighbour::Attacker);
    // Its absence does not hinder the start, and is said.
    let kernel = answer_of(agent, "/v1/status")?["kernel"].clone();
    let missing = json!([{"name": "named0", "why": "no such interface yet"}]);
    ensure!(
        kernel["failures"] == missing && kernel["interfaces"] == json!([]),
        "{kernel}"
    );
    ensure!(agent.metrics()?.sum("enforcer_interface_failures", &[]) == 1.0);
    let text = String::from_utf8(agent.command(&["status"])?.stdout)?;
    ensure!(text.contains("  named0: no such interface yet\n"), "{text}");

    let sink = Sink::listen(node, PORT)?;
    for round in 0..2 {
        node.ip(&[
            "link",
            "add",
            "late7",
            "type",
            "veth",
            "peer",
            "name",
            "far7",
            "netns",
            peer.name(),
        ])?;
        node.ip(&["address", "add", "10.204.0.1/24", "dev", "late7"])?;
        node.ip(&["link", "set", "late7", "up"])?;
        peer.ip(&["address", "add", "10.204.0.2/24", "dev", "far7"])?;
        peer.ip(&["link", "set", "far7", "up"])?;
        agent.wait_for("the new interface attached", |metrics| {
            metrics.sum(
                "enforcer_interface_attached",
                &[("interface", "late7"), ("tc", "tcx")],
            ) == 1.0
        })?;
        let hooks = Hooks::of(node, "late7")?;
        ensure!(hooks.xdp.is_some() && hooks.egress.len() == 1, "{hooks:?}");
        // The source's limiter outlives the interface.
        let expected = if round == 0 { 5 } else { 0 };
        expect_arrivals(agent, &sink, peer, SocketAddr::new(NODE, PORT), [20, expected])?;

        // Under another name, the policy is not about it.
        node.ip(&["link", "set", "late7", "name", "other7"])?;
        wait_until("the renamed interface let go", || {
            Ok(Hooks::of(node, "other7")?.is_empty())
        })?;
        node.ip(&["link", "set", "other7", "name", "late7"])?;
        wait_until("the interface attached under its old name", || {
            Ok(!Hooks::of(node, "late7")?.is_empty())
        })?;

        node.ip(&["link", "delete", "late7"])?;
        agent.wait_for("the lost interface let go", |metrics| {
            metrics.sum("enforcer_interface_attached", &[]) == 0.0
        })?;
    }
    let kernel = answer_of(agent, "/v1/status")?["kernel"].clone();
    ensure!(
        kernel["failures"] == missing && kernel["interfaces"] == json!([]),
        "{kernel}"
    );

    // One that a policy names exactly is no failure once it is there.
    node.ip(&["link", "add", "named0", "type", "veth", "peer", "name", "named1"])?;
    agent.wait_for("the named interface attached", |metrics| {
        metrics.sum("enforcer_interface_attached", &[("interface", "named0")]) == 1.0
            && metrics.sum("enforcer_interface_failures", &[]) == 0.0
    })?;
    let status: Value = answer_of(agent, "/v1/status")?;
    ensure!(
        status["generation"] == 1,
        "an interface is no change of policies: {status}"
    );

    // Nor is it attached to any longer than a policy names it.
    put_in_force(&stage, EDGE, &packet_policy("edge", "interfaces: [\"late*\"]"))?;
    ensure!(Hooks::of(node, "named0")?.is_empty());
    Ok(())
}

/// How often policies were applied anew because of interfaces.
fn followed(stage: &lab::demo::setup::Stage) -> usize {
    let log = stage.agent().log();
    log.matches("interfaces have changed").count()
}

#[test]
fn faults_5_interfaces_that_no_policy_names_change_nothing() -> Result<()> {
    let setting = Setting {
        edge: packet_policy("edge", "interfaces: [to-client, \"late*\"]\n  ports: [tcp/8443]"),
        ..Setting::default()
    };
    let Some(stage) = setting.stage()? else {
        return Ok(());
    };
    let node = stage.lab().node();
    let add = |name: &str| {
        let other = format!("of-{name}");
        node.ip(&["link", "add", name, "type", "veth", "peer", "name", &other])
    };
    let attached = |name: &str, times: usize| {
        stage
            .agent()
            .wait_for("the named interface attached", |metrics| {
                metrics.sum("enforcer_interface_attached", &[("interface", name)]) == 1.0
            })?;
        wait_until("the log says so", || Ok(followed(&stage) >= times))
    };
    add("late0")?;
    attached("late0", 1)?;
    for number in 0..5 {
        let name = format!("stranger{number}");
        add(&name)?;
        node.ip(&["link", "set", &name, "up"])?;
        node.ip(&["link", "delete", &name])?;
    }
    // The kernel tells of them in order, so all those have been looked at once this one is attached.
    add("late1")?;
    attached("late1", 2)?;
    ensure!(followed(&stage) == 2, "{} times", followed(&stage));
    Ok(())
}
