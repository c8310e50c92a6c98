//! Whoever keeps failing to authenticate is denied in the kernel, for a while; nobody else is.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use http::StatusCode;
use lab::{
    agent::Signal,
    client::{Ask, Protocol},
    demo::setup::Stage,
    topology::Neighbour,
};

use crate::{
    setting::{BAD_TOKEN, BY_TOKEN, Caller, Setting, good_token, json, listener, packet_policy, wait_until},
    traffic::{connect, is_answered, packets},
};

/// As `denyFor` has it.
const DENIED_FOR: Duration = Duration::from_secs(3);
/// Failures that are admitted in a minute.
const ADMITTED: usize = 3;

fn setting() -> Setting {
    Setting {
        certificates: "optional",
        auth_failures: "{rate: 3/m, denyFor: 3s}",
        management: format!("[{}/32]", Neighbour::UpstreamA.ipv4()),
        edge: packet_policy(
            "edge",
            "interfaces: [to-client, to-attacker, to-upstream-a]\n  ports: [tcp/8443]",
        ),
        ..Setting::default()
    }
}

/// Offers tokens that do not hold, each over a connection of its own.
fn fail(stage: &Stage, from: Neighbour, node: IpAddr, times: usize) -> Result<()> {
    let caller = Caller::at(stage.lab().neighbour(from))?;
    let client = stage.client_of(listener(node), None, Protocol::Http1)?;
    for _ in 0..times {
        let answer = caller.once(&client, &Ask::get(BY_TOKEN).with_token(BAD_TOKEN)?)??;
        ensure!(answer.status == StatusCode::UNAUTHORIZED, "{}", answer.status);
    }
    Ok(())
}

fn denials(stage: &Stage) -> Result<f64> {
    Ok(stage
        .agent()
        .metrics()?
        .sum("enforcer_authentication_denials_total", &[]))
}

fn expect_denied_for_a_while(stage: &Stage, node: IpAddr, own: IpAddr, prefix: &str) -> Result<()> {
    let agent = stage.agent();
    let attacker = stage.lab().neighbour(Neighbour::Attacker);
    let gateway = listener(node);
    let before = denials(stage)?;
    fail(stage, Neighbour::Attacker, node, ADMITTED)?;
    connect(attacker, gateway).context("at the limit of failures, not over it")?;
    ensure!(denials(stage)? == before);

    // The answer to the failure that is one too many may be cut off by its own consequence.
    let last_failure = Instant::now();
    let caller = Caller::at(attacker)?;
    let client = stage
        .client_of(gateway, None, Protocol::Http1)?
        .with_patience(Duration::from_secs(1));
    drop(caller.once(&client, &Ask::get(BY_TOKEN).with_token(BAD_TOKEN)?)?);
    agent.wait_for("the denial", |metrics| {
        metrics.sum("enforcer_authentication_denials_total", &[]) == before + 1.0
    })?;
    let dropped = || {
        packets(
            agent,
            &[("reason", "denied-for-authentication"), ("verdict", "drop")],
        )
    };
    let dropped_before = dropped()?;
    ensure!(
        is_answered(attacker, gateway)?.is_none(),
        "a denied source connects"
    );
    // It is denied on all ports, and in the kernel.
    ensure!(is_answered(attacker, SocketAddr::new(node, 1))?.is_none());
    ensure!(dropped()? >= dropped_before + 2);

    let output = agent.command(&["explain", &own.to_string()])?;
    let text = String::from_utf8(output.stdout)?;
    let sentence = format!(
        "{own}: dropped: denied-for-authentication {prefix} (authentication keeps failing), for another "
    );
    let seconds = text
        .strip_prefix(&sentence)
        .and_then(|rest| rest.split_once(" s\n"))
        .and_then(|(seconds, _)| seconds.parse::<u64>().ok());
    ensure!(
        seconds.is_some_and(|seconds| (1..=3).contains(&seconds)),
        "{text}"
    );
    let denied = json(agent, &format!("/v1/explain?address={own}"))?["denied"].clone();
    ensure!(
        denied["prefix"] == prefix && denied["kind"] == "denied-for-authentication",
        "{denied}"
    );

    // Others are not concerned, and in the end nor is the source.
    connect(
        stage.lab().neighbour(Neighbour::Client),
        listener(Neighbour::Client.node_ipv4()),
    )?;
    wait_until("the end of the denial", || {
        Ok(is_answered(attacker, gateway)?.is_some())
    })?;
    let lasted = last_failure.elapsed();
    ensure!(lasted >= DENIED_FOR, "it ended after {lasted:?}");
    ensure!(lasted < DENIED_FOR * 2, "it ended after {lasted:?}");
    agent.wait_for("the denial forgotten", |metrics| {
        metrics.sum("enforcer_denied_prefixes", &[]) == 0.0
    })?;
    Ok(())
}

#[test]
fn a_source_that_keeps_failing_is_denied_for_a_while() -> Result<()> {
    let Some(stage) = setting().stage()? else {
        return Ok(());
    };
    let own = Neighbour::Attacker.ipv4();
    expect_denied_for_a_while(&stage, Neighbour::Attacker.node_ipv4(), own, &format!("{own}/32"))?;
    // An IPv6 client has a whole /64.
    let own = Neighbour::Attacker.ipv6();
    expect_denied_for_a_while(&stage, Neighbour::Attacker.node_ipv6(), own, "fd00:203:2::/64")
}

#[test]
fn neighbours_of_verified_clients_and_management_are_spared() -> Result<()> {
    let Some(stage) = setting().stage()? else {
        return Ok(());
    };
    let spared = |why| -> Result<f64> {
        let metrics = stage.agent().metrics()?;
        Ok(metrics.sum("enforcer_authentication_denials_spared_total", &[("why", why)]))
    };
    // Somebody at the client's address has proved who they are.
    let caller = Caller::at(stage.lab().neighbour(Neighbour::Client))?;
    let node = Neighbour::Client.node_ipv4();
    let client = stage.client_of(listener(node), None, Protocol::Http1)?;
    let good = Ask::get(BY_TOKEN).with_token(&good_token(&stage)?)?;
    let (verified, answer) = caller.send(caller.open(&client)?, &good)?;
    ensure!(answer.status == StatusCode::OK);
    fail(&stage, Neighbour::Client, node, ADMITTED + 2)?;
    wait_until("the client spared", || Ok(spared("verified-client")? == 2.0))?;
    let (verified, answer) = caller.send(verified, &good)?;
    ensure!(answer.status == StatusCode::OK);
    connect(stage.lab().neighbour(Neighbour::Client), listener(node))?;

    // The management list is never denied.
    let node = Neighbour::UpstreamA.node_ipv4();
    fail(&stage, Neighbour::UpstreamA, node, ADMITTED + 2)?;
    wait_until("management spared", || Ok(spared("management")? == 2.0))?;
    connect(stage.lab().neighbour(Neighbour::UpstreamA), listener(node))?;
    ensure!(denials(&stage)? == 0.0);
    ensure!(json(stage.agent(), "/v1/denials")? == serde_json::json!([]));

    // Once the verified client is gone, nobody suffers for its neighbour any more.
    drop(verified);
    stage
        .agent()
        .wait_for("the verified connection closed", |metrics| {
            metrics.sum("enforcer_verified_flows", &[]) == 0.0
        })?;
    let once_more = Ask::get(BY_TOKEN).with_token(BAD_TOKEN)?;
    drop(caller.once(&client.with_patience(Duration::from_secs(1)), &once_more)?);
    stage.agent().wait_for("the denial", |metrics| {
        metrics.sum("enforcer_authentication_denials_total", &[]) == 1.0
    })?;
    Ok(())
}

/// With `pins: off` nothing in the kernel outlives the agent, as nothing outlives a reboot or another layout of the maps.
#[test]
fn an_operators_denial_outlives_the_maps_and_what_was_allowed_again_does_not() -> Result<()> {
    let Some(mut stage) = setting().stage()? else {
        return Ok(());
    };
    for prefix in ["192.0.2.0/24", "2001:db8::/32"] {
        let denied = stage
            .agent()
            .command(&["deny", prefix, "--for", "10m", "--reason", "ticket 4711"])?;
        ensure!(denied.status.success(), "{denied:?}");
    }
    ensure!(
        stage
            .agent()
            .command(&["allow", "192.0.2.0/24"])?
            .status
            .success()
    );
    stage.agent().signal(Signal::Terminate)?;
    stage.agent_mut().wait_until_ended()?;
    stage.restart_agent()?;
    let denied = json(stage.agent(), "/v1/denials")?;
    let denied = denied.as_array().context("a list")?;
    ensure!(denied.len() == 1, "{denied:?}");
    ensure!(denied[0]["prefix"] == "2001:db8::/32", "{denied:?}");
    ensure!(denied[0]["reason"] == "ticket 4711", "{denied:?}");
    let left = denied[0]["endsInSeconds"].as_u64();
    ensure!(left.is_some_and(|left| (500..=600).contains(&left)), "{denied:?}");
    ensure!(
        stage
            .agent()
            .log()
            .contains("the operator's denials are in force again")
    );
    Ok(())
}
