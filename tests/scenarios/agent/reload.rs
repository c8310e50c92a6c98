//! Policies change while the agent runs: all at once, never for the worse, and without a request lost.

use std::{
    net::SocketAddr,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use http::StatusCode;
use lab::{
    client::{Ask, Client},
    demo::setup::Stage,
    load::{Load, Pace, Reuse},
    topology::Neighbour,
};

use crate::{
    setting::{
        EDGE, GATEWAY, OPEN, ORDERS, REPORTS_PER_MINUTE, Setting, gateway, generation, good_token, json,
        packet_policy, put_in_force,
    },
    traffic::{Sink, expect_arrivals},
};

const PORT: u16 = 7001;
const REQUESTS_PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(199);

fn edge(burst: u64) -> String {
    packet_policy(
        "edge",
        &format!(
            "interfaces: [to-client, to-attacker]
  ports: [udp/{PORT}]
  limits:
    - {{name: per-source, per: source, rate: 1/m, burst: {burst}}}"
        ),
    )
}

fn setting() -> Setting {
    Setting {
        edge: edge(10),
        ..Setting::default()
    }
}

/// The line and column where `burst` has no number, and what is said of it.
const BROKEN: [&str; 2] = [
    "error: spec.limits[0].burst",
    // Of the file no more than 32 characters are repeated.
    "te: 1/m, burst: many}",
];

#[test]
fn a_broken_file_leaves_the_last_good_policies_in_force() -> Result<()> {
    let Some(stage) = setting().stage()? else {
        return Ok(());
    };
    let agent = stage.agent();
    let sink = Sink::listen(stage.lab().node(), PORT)?;
    let attacker = stage.lab().neighbour(Neighbour::Attacker);
    let to = SocketAddr::new(Neighbour::Attacker.node_ipv4(), PORT);
    let digest = json(agent, "/v1/status")?["digest"].clone();

    let broken = edge(10).replace("burst: 10", "burst: many");
    stage.workspace().write_policy(EDGE, &broken)?;
    let metrics = agent.wait_for("the broken file refused", |metrics| {
        metrics.sum("enforcer_policies_refused", &[]) > 0.0
    })?;
    ensure!(metrics.sum("enforcer_policy_load_failures_total", &[]) == 1.0);
    ensure!(metrics.sum("enforcer_generation", &[]) == 1.0);
    let status = agent.command(&["status"])?;
    let text = String::from_utf8(status.stdout)?;
    let (line, column) = place_of("many", &broken)?;
    let place = format!("{EDGE}:{line}:{column}: ");
    ensure!(text.contains(&place), "`{place}` is not in:\n{text}");
    for part in BROKEN {
        ensure!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    let standing = json(agent, "/v1/status")?;
    ensure!(
        standing["digest"] == digest && standing["ready"] == true,
        "{standing}"
    );
    expect_arrivals(agent, &sink, attacker, to, [30, 10])?;
    ensure!(ask(&stage, OPEN)? == StatusCode::OK);

    // A mistake of another kind counts again; mending it brings a generation with what is new in it.
    stage.workspace().write_policy(EDGE, "kind: [")?;
    agent.wait_for("the second broken file refused", |metrics| {
        metrics.sum("enforcer_policy_load_failures_total", &[]) == 2.0
    })?;
    put_in_force(&stage, EDGE, &edge(25))?;
    let metrics = agent.metrics()?;
    ensure!(metrics.sum("enforcer_generation", &[]) == 2.0);
    ensure!(metrics.sum("enforcer_policies_refused", &[]) == 0.0);
    ensure!(metrics.sum("enforcer_policy_load_failures_total", &[]) == 2.0);
    ensure!(json(agent, "/v1/status")?["refused"].is_null());
    // Another neighbour, whose limiter is full.
    let to = SocketAddr::new(Neighbour::Client.node_ipv4(), PORT);
    expect_arrivals(
        agent,
        &sink,
        stage.lab().neighbour(Neighbour::Client),
        to,
        [30, 25],
    )
}

/// From 1, as editors count.
fn place_of(word: &str, text: &str) -> Result<(usize, usize)> {
    let mut lines = text.lines().enumerate();
    lines
        .find_map(|(line, text)| text.find(word).map(|column| (line + 1, column + 1)))
        .context("the word is there")
}

fn ask(stage: &Stage, path: &str) -> Result<StatusCode> {
    let ask = Ask::get(path).with_token(&good_token(stage)?)?;
    Ok(stage.ask(stage.verified_client()?, ask)??.status)
}

/// One file with a packet limit and a route: both change, in one generation.
#[test]
fn kernel_and_gateway_change_together() -> Result<()> {
    let both = |burst, path: &str| {
        let route = gateway("{path: /healthz, interval: 1s}", REPORTS_PER_MINUTE);
        format!("{}---\n{}", edge(burst), route.replace("/v1/open", path))
    };
    let mut plan = setting().plan();
    plan.policies.remove(EDGE);
    plan.policies.insert(GATEWAY.to_owned(), both(10, "/v1/open"));
    if !lab::privilege::root_or_skip() {
        return Ok(());
    }
    let stage = Stage::build(&lab::demo::screen::Screen::default(), &plan)?;
    let agent = stage.agent();
    let sink = Sink::listen(stage.lab().node(), PORT)?;
    let to = |neighbour: Neighbour| SocketAddr::new(neighbour.node_ipv4(), PORT);
    let (client, attacker) = (Neighbour::Client, Neighbour::Attacker);
    expect_arrivals(agent, &sink, stage.lab().neighbour(client), to(client), [30, 10])?;
    ensure!(ask(&stage, "/v1/open")? == StatusCode::OK);
    ensure!(ask(&stage, "/v1/opened")? == StatusCode::NOT_FOUND);

    put_in_force(&stage, GATEWAY, &both(20, "/v1/opened"))?;
    ensure!(generation(agent)? == 2.0);
    expect_arrivals(
        agent,
        &sink,
        stage.lab().neighbour(attacker),
        to(attacker),
        [30, 20],
    )?;
    ensure!(ask(&stage, "/v1/open")? == StatusCode::NOT_FOUND);
    ensure!(ask(&stage, "/v1/opened")? == StatusCode::OK);
    Ok(())
}

/// Limits, routes and limits of routes change several times while requests run.
#[test]
fn no_request_fails_while_policies_change() -> Result<()> {
    let Some(stage) = setting().stage()? else {
        return Ok(());
    };
    let load = Load {
        connections: 8,
        pace: Pace::PerSecond(REQUESTS_PER_SECOND),
        reuse: Reuse::KeepAlive,
        warm_up: Duration::ZERO,
        duration: Duration::from_secs(4),
    };
    let (client, ask): (Client, Ask) = (
        stage.verified_client()?,
        Ask::get(ORDERS).with_token(&good_token(&stage)?)?,
    );
    let started = Instant::now();
    let pending = stage.client_thread().begin(load.run(client, ask));
    let mut changes = 0.0;
    while started.elapsed() < load.duration * 3 / 4 {
        changes += 1.0;
        put_in_force(&stage, EDGE, &edge(10 + changes as u64))?;
        changes += 1.0;
        let limit = REPORTS_PER_MINUTE + changes as u64;
        put_in_force(&stage, GATEWAY, &gateway("{path: /healthz, interval: 1s}", limit))?;
    }
    let report = pending.wait()?;
    ensure!(report.requests == 800 && report.succeeded == 800, "{report:?}");
    ensure!(changes >= 4.0 && generation(stage.agent())? == 1.0 + changes);
    ensure!(
        stage
            .agent()
            .metrics()?
            .sum("enforcer_policy_load_failures_total", &[])
            == 0.0
    );
    Ok(())
}
