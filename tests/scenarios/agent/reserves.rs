//! What is kept for those who have proved who they are: a share for new connections of sources that were verified
//! recently, and limits of each identity's own.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Result, ensure};
use http::StatusCode;
use lab::{
    client::{Ask, Protocol},
    demo::{policies::PORT, setup::Stage},
    frame::Payload,
    topology::Neighbour,
};

use crate::{
    setting::{
        BY_TOKEN, Caller, EDGE, OPEN, Setting, good_token, json, listener, packet_policy, put_in_force,
    },
    traffic::{flood, is_answered, packets},
};

const NODES: [fn(Neighbour) -> IpAddr; 2] = [Neighbour::node_ipv4, Neighbour::node_ipv6];

/// One packet a minute for all strangers together, and some at once.
fn shared_limit(recent: &str) -> String {
    packet_policy(
        "edge",
        &format!(
            "interfaces: [to-client, to-attacker]
  ports: [tcp/{PORT}]
  limits:
    - {{name: shared, per: service, rate: 1/m, burst: 400}}
  verified: {{rate: 20000/s, burst: 40000{recent}}}"
        ),
    )
}

/// Opens a connection, with a certificate, and asks once.
fn connects(stage: &Stage, caller: &Caller, node: IpAddr) -> Result<()> {
    let client = stage.client_of(listener(node), Some(stage.identity()), Protocol::Http1)?;
    let (_, answer) = caller.send(caller.open(&client)?, &Ask::get(OPEN))?;
    ensure!(answer.status == StatusCode::OK);
    Ok(())
}

#[test]
fn a_client_that_was_verified_connects_while_a_forged_flood_uses_the_limit_up() -> Result<()> {
    let setting = Setting {
        certificates: "optional",
        edge: shared_limit(""),
        ..Setting::default()
    };
    let Some(stage) = setting.stage()? else {
        return Ok(());
    };
    let agent = stage.agent();
    let namespace = stage.lab().neighbour(Neighbour::Client);
    let caller = Caller::at(namespace)?;
    for node in NODES {
        connects(&stage, &caller, node(Neighbour::Client))?;
    }
    agent.wait_for("both addresses remembered", |metrics| {
        metrics.sum("enforcer_recently_verified_sources", &[]) == 2.0
    })?;

    let to = SocketAddr::new(Neighbour::Attacker.node_ipv4(), PORT);
    let forged = IpAddr::V4(Ipv4Addr::new(100, 64, 0, 1));
    let flooding = flood(stage.lab(), Payload::TcpSyn, forged, 10_000, to, 5_000)?;
    agent.wait_for("the limit used up", |metrics| {
        metrics.sum(
            "enforcer_packets_total",
            &[("limit", "shared"), ("verdict", "drop")],
        ) > 2_000.0
    })?;
    for node in NODES {
        connects(&stage, &caller, node(Neighbour::Client))?;
    }
    let spent = packets(agent, &[("policy", "edge"), ("reason", "recently-verified")])?;
    ensure!(spent > 0, "nothing of the share was needed");
    let explained = json(
        agent,
        &format!("/v1/explain?address={}", Neighbour::Client.ipv4()),
    )?;
    ensure!(explained["verifiedSecondsAgo"].is_u64(), "{explained}");

    // Without the share not even a SYN gets through; with it again, it does.
    put_in_force(&stage, EDGE, &shared_limit(", recent: off"))?;
    for node in NODES {
        let answered = is_answered(namespace, listener(node(Neighbour::Client)))?;
        ensure!(answered.is_none(), "a SYN got past the limit");
    }
    put_in_force(&stage, EDGE, &shared_limit(""))?;
    for node in NODES {
        connects(&stage, &caller, node(Neighbour::Client))?;
    }
    let sent = flooding.stop()?;
    ensure!(sent.packets > 2_000, "{sent:?} is no flood");
    Ok(())
}

/// Each identity's packets are charged to its own limit, which reconnecting refills for nobody.
#[test]
fn an_identity_over_its_limit_hurts_no_other() -> Result<()> {
    let setting = Setting {
        certificates: "optional",
        edge: packet_policy(
            "edge",
            &format!(
                "interfaces: [to-client]
  ports: [tcp/{PORT}]
  limits:
    - {{name: strangers, per: source, rate: 10000/s, burst: 20000}}
    - {{name: each, per: identity, rate: 1/m, burst: 60}}"
            ),
        ),
        ..Setting::default()
    };
    let Some(stage) = setting.stage()? else {
        return Ok(());
    };
    let agent = stage.agent();
    let caller = Caller::at(stage.lab().neighbour(Neighbour::Client))?;
    let node = listener(Neighbour::Client.node_ipv4());
    let impatient = Duration::from_secs(2);
    let by_certificate = stage
        .client_of(node, Some(stage.identity()), Protocol::Http1)?
        .with_patience(impatient);
    let mut connection = caller.open(&by_certificate)?;
    let mut served = 0;
    while let Ok((still, answer)) = caller.send(connection, &Ask::get(OPEN)) {
        ensure!(answer.status == StatusCode::OK);
        connection = still;
        served += 1;
        // Each is a packet at least, and the first may come before the kernel knows whose it is.
        ensure!(served < 70, "more than the limit got through");
    }
    ensure!(
        served >= 5,
        "only {served} requests of a few packets each got through"
    );
    ensure!(packets(agent, &[("limit", "each"), ("verdict", "drop")])? > 0);
    ensure!(packets(agent, &[("limit", "strangers"), ("verdict", "drop")])? == 0);
    // A new connection is a stranger's until it is verified, and then the same identity's.
    let mut connection = caller.open(&by_certificate)?;
    let mut again = 0;
    while let Ok((still, _)) = caller.send(connection, &Ask::get(OPEN)) {
        connection = still;
        again += 1;
        ensure!(again < 5, "reconnecting refilled the limit");
    }
    let by_token = stage.client_of(node, None, Protocol::Http1)?;
    let ask = Ask::get(BY_TOKEN).with_token(&good_token(&stage)?)?;
    let mut connection = caller.open(&by_token)?;
    for _ in 0..5 {
        let (still, answer) = caller.send(connection, &ask)?;
        ensure!(answer.status == StatusCode::OK);
        connection = still;
    }
    Ok(())
}
