//! Packet policies on real sockets: how much gets through, to the packet.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use lab::{frame::Payload, topology::Neighbour};

use crate::{
    hooks::{GENERIC, Hooks, NATIVE},
    setting::{EDGE, Setting, json, packet_policy, put_in_force},
    traffic::{Sink, expect_arrivals, flood, is_answered, listen, packets},
};

const PORT: u16 = 7001;
const SENT: u64 = 50;
/// The burst. The rate brings one more only after a minute.
const ADMITTED: u64 = 20;

const NODES: [fn(Neighbour) -> IpAddr; 2] = [Neighbour::node_ipv4, Neighbour::node_ipv6];

fn limited(mode: &str, more: &str) -> String {
    packet_policy(
        "edge",
        &format!(
            "mode: {mode}
  interfaces: [to-client, to-attacker]
  ports: [udp/{PORT}, tcp/{PORT}]{more}
  limits:
    - {{name: datagrams, per: source, rate: 1/m, burst: {ADMITTED}}}"
        ),
    )
}

fn setting(edge: String) -> Setting {
    Setting {
        edge,
        ..Setting::default()
    }
}

/// Each neighbour has its own budget, over IPv4 and over IPv6.
fn expect_exact_limits(xdp: &'static str, mode: u64) -> Result<()> {
    let setting = Setting {
        xdp,
        ..setting(limited("enforce", ""))
    };
    let Some(stage) = setting.stage()? else {
        return Ok(());
    };
    let agent = stage.agent();
    let hooks = Hooks::of(stage.lab().node(), Neighbour::Attacker.node_interface())?;
    ensure!(hooks.xdp.is_some_and(|(reached, _)| reached == mode), "{hooks:?}");
    let sink = Sink::listen(stage.lab().node(), PORT)?;
    for neighbour in [Neighbour::Attacker, Neighbour::Client] {
        for node in NODES {
            let to = SocketAddr::new(node(neighbour), PORT);
            expect_arrivals(
                agent,
                &sink,
                stage.lab().neighbour(neighbour),
                to,
                [SENT, ADMITTED],
            )?;
        }
    }
    let counted = |verdict, reason| {
        packets(
            agent,
            &[("policy", "edge"), ("verdict", verdict), ("reason", reason)],
        )
    };
    ensure!(counted("pass", "within-limits")? == 4 * ADMITTED);
    ensure!(counted("drop", "limit")? == 4 * (SENT - ADMITTED));
    ensure!(packets(agent, &[("limit", "datagrams")])? == 4 * (SENT - ADMITTED));
    Ok(())
}

#[test]
fn datagrams_are_limited_by_source_to_the_packet() -> Result<()> {
    expect_exact_limits("auto", NATIVE)
}

#[test]
fn generic_xdp_limits_the_same() -> Result<()> {
    expect_exact_limits("generic", GENERIC)
}

#[test]
fn connections_are_limited_by_source() -> Result<()> {
    let edge = packet_policy(
        "edge",
        &format!(
            "interfaces: [to-client, to-attacker]
  ports: [tcp/{PORT}]
  limits:
    - {{name: connections, per: source, count: connections, rate: 1/m, burst: 5}}"
        ),
    );
    let Some(stage) = setting(edge).stage()? else {
        return Ok(());
    };
    let _service = listen(stage.lab().node(), PORT)?;
    let attacker = stage.lab().neighbour(Neighbour::Attacker);
    for node in NODES {
        let to = SocketAddr::new(node(Neighbour::Attacker), PORT);
        let mut open = Vec::new();
        for number in 1..=7 {
            let answered = is_answered(attacker, to)?;
            ensure!(
                answered.is_some() == (number <= 5),
                "connection {number} to {to}: {answered:?}"
            );
            open.extend(answered);
        }
    }
    // Only what opens connections is limited: those that stand have sent more than five packets.
    ensure!(packets(stage.agent(), &[("limit", "connections"), ("verdict", "drop")])? == 4);
    let passed = packets(stage.agent(), &[("policy", "edge"), ("verdict", "pass")])?;
    ensure!(passed >= 20, "{passed}: two for each connection at least");
    Ok(())
}

#[test]
fn a_deny_list_denies_and_an_allow_list_goes_before_limits() -> Result<()> {
    let attacker = Neighbour::Attacker;
    let lists = format!(
        "
  allow: [{}/32]
  deny:
    - {{cidr: 10.203.2.0/24, reason: abuse 4711}}
    - {{cidr: \"fd00:203:2::/64\", until: \"2020-01-01T00:00:00Z\"}}",
        Neighbour::Client.ipv4(),
    );
    let Some(stage) = setting(limited("enforce", &lists)).stage()? else {
        return Ok(());
    };
    let agent = stage.agent();
    let sink = Sink::listen(stage.lab().node(), PORT)?;
    let to = |node| SocketAddr::new(node, PORT);
    let (from_client, from_attacker) = (
        stage.lab().neighbour(Neighbour::Client),
        stage.lab().neighbour(attacker),
    );
    expect_arrivals(agent, &sink, from_attacker, to(attacker.node_ipv4()), [SENT, 0])?;
    // That entry has ended long ago; limits still hold.
    expect_arrivals(
        agent,
        &sink,
        from_attacker,
        to(attacker.node_ipv6()),
        [SENT, ADMITTED],
    )?;
    expect_arrivals(
        agent,
        &sink,
        from_client,
        to(Neighbour::Client.node_ipv4()),
        [SENT, SENT],
    )?;
    ensure!(packets(agent, &[("reason", "denied"), ("verdict", "drop")])? == SENT);
    ensure!(packets(agent, &[("reason", "allowed"), ("verdict", "pass")])? == SENT);
    let verdict = json(agent, &format!("/v1/explain?address={}", attacker.ipv4()))?["verdict"].clone();
    let verdict = verdict.as_str().unwrap_or_default().to_owned();
    ensure!(
        verdict.starts_with(
            "dropped: deny list (10.203.2.0/24 at policies/edge.yaml:10: abuse 4711), by policy edge at "
        ),
        "{verdict}"
    );

    // Without the entry, the source is within its limits again.
    put_in_force(&stage, EDGE, &limited("enforce", ""))?;
    expect_arrivals(
        agent,
        &sink,
        from_attacker,
        to(attacker.node_ipv4()),
        [SENT, ADMITTED],
    )
}

#[test]
fn shadow_counts_the_same_and_drops_nothing() -> Result<()> {
    let denied = format!("\n  deny: [{}/128]", Neighbour::Client.ipv6());
    let Some(stage) = setting(limited("shadow", &denied)).stage()? else {
        return Ok(());
    };
    let agent = stage.agent();
    let sink = Sink::listen(stage.lab().node(), PORT)?;
    for (neighbour, node) in [
        (Neighbour::Attacker, Neighbour::Attacker.node_ipv4()),
        (Neighbour::Attacker, Neighbour::Attacker.node_ipv6()),
        (Neighbour::Client, Neighbour::Client.node_ipv6()),
    ] {
        let to = SocketAddr::new(node, PORT);
        expect_arrivals(agent, &sink, stage.lab().neighbour(neighbour), to, [SENT, SENT])?;
    }
    let counted = |verdict, reason| {
        packets(
            agent,
            &[("policy", "edge"), ("verdict", verdict), ("reason", reason)],
        )
    };
    ensure!(counted("shadow", "limit")? == 2 * (SENT - ADMITTED));
    ensure!(counted("shadow", "denied")? == SENT);
    ensure!(packets(agent, &[("policy", "edge"), ("verdict", "drop")])? == 0);

    // The same limiters are enforced from one generation to the next.
    put_in_force(&stage, EDGE, &limited("enforce", &denied))?;
    let to = SocketAddr::new(Neighbour::Client.node_ipv6(), PORT);
    expect_arrivals(
        agent,
        &sink,
        stage.lab().neighbour(Neighbour::Client),
        to,
        [SENT, 0],
    )
}

/// Sources that change their address within a prefix are held by it, and `explain` names the prefix.
#[test]
fn a_prefix_of_many_sources_has_its_own_share() -> Result<()> {
    let edge = packet_policy(
        "edge",
        &format!(
            "interfaces: [to-attacker]
  ports: [udp/{PORT}]
  limits:
    - {{name: datagrams, rate: 6/m, burst: 5, prefix: [{{ipv4: 32, ipv6: 64}}, {{ipv4: 24, ipv6: 48, times: 10}}]}}"
        ),
    );
    let Some(stage) = setting(edge).stage()? else {
        return Ok(());
    };
    let agent = stage.agent();
    for (node, first, prefix) in [
        (Neighbour::Attacker.node_ipv4(), "100.64.1.0", "100.64.1.0/24"),
        (Neighbour::Attacker.node_ipv6(), "2001:db8:7::", "2001:db8:7::/48"),
    ] {
        let passed = || packets(agent, &[("policy", "edge"), ("verdict", "pass")]);
        let before = passed()?;
        let to = SocketAddr::new(node, PORT);
        let flooding = flood(
            stage.lab(),
            Payload::Udp { bytes: 64 },
            first.parse()?,
            200,
            to,
            2_000,
        )?;
        let dropped = packets(agent, &[("limit", "datagrams")])?;
        agent.wait_for("a flood over the limit", |metrics| {
            let now = metrics.sum("enforcer_packets_total", &[("limit", "datagrams")]);
            now as u64 > dropped + 3_000
        })?;
        flooding.stop()?;
        // Ten times the burst of 5, and one a second from then on.
        let passed = passed()? - before;
        ensure!((50..80).contains(&passed), "{passed} of all passed");
        let explained = json(agent, &format!("/v1/explain?address={first}"))?;
        let verdict = explained["verdict"].as_str().unwrap_or_default();
        ensure!(
            verdict.starts_with(&format!(
                "limited: over limit datagrams for {prefix} of policy edge at "
            )),
            "{explained}"
        );
    }
    Ok(())
}
