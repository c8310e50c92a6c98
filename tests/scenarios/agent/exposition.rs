//! `/metrics`: what Prometheus takes, complete, and bounded whatever strangers send.

use std::{
    collections::BTreeSet,
    env,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use lab::{
    client::{Ask, Protocol},
    demo::setup::{CLIENT_ID, OTHER_SCOPE, Stage},
    frame::Payload,
    topology::Neighbour,
};

use crate::{
    setting::{
        BAD_TOKEN, BY_TOKEN, Caller, OPEN, ORDERS, REPORTS, REPORTS_PER_MINUTE, Setting, good_token,
        listener, packet_policy, wait_until,
    },
    traffic::{Sink, expect_arrivals, flood, is_answered},
};

pub const PORT: u16 = 7001;

/// Two policies, enforced and in shadow, with an entry for most reasons.
pub fn setting() -> Setting {
    let enforced = format!(
        "interfaces: [to-attacker]
  ports: [udp/{PORT}, tcp/8443]
  allow: [{}/128]
  deny: [{}/32]
  limits:
    - {{name: first, per: source, rate: 1000/s, burst: 2000}}
    - {{name: second, per: service, rate: 1/m, burst: 20}}",
        Neighbour::Attacker.ipv6(),
        Neighbour::Attacker.ipv4(),
    );
    let shadow = format!(
        "mode: shadow
  interfaces: [to-client, to-upstream-a]
  ports: [udp/{PORT}, tcp/8443]
  egress: {{deny: [{}/128]}}
  limits:
    - {{name: only, per: source, rate: 1/m, burst: 20}}
  verified: {{rate: 20000/s, burst: 40000}}",
        Neighbour::UpstreamA.ipv6(),
    );
    let edge = format!(
        "{}---\n{}",
        packet_policy("enforced", &enforced),
        packet_policy("shadow", &shadow)
    );
    Setting {
        edge,
        certificates: "optional",
        ..Setting::default()
    }
}

/// One of everything that is counted.
pub fn touch_everything(stage: &Stage) -> Result<()> {
    let agent = stage.agent();
    let sink = Sink::listen(stage.lab().node(), PORT)?;
    let (attacker, client) = (Neighbour::Attacker, Neighbour::Client);
    let to = |node| SocketAddr::new(node, PORT);
    expect_arrivals(
        agent,
        &sink,
        stage.lab().neighbour(attacker),
        to(attacker.node_ipv4()),
        [30, 0],
    )?;
    expect_arrivals(
        agent,
        &sink,
        stage.lab().neighbour(attacker),
        to(attacker.node_ipv6()),
        [30, 30],
    )?;
    expect_arrivals(
        agent,
        &sink,
        stage.lab().neighbour(client),
        to(client.node_ipv4()),
        [30, 30],
    )?;
    // Shadow lets it go.
    drop(is_answered(
        stage.lab().node(),
        SocketAddr::new(Neighbour::UpstreamA.ipv6(), 8080),
    ));
    let strangers = IpAddr::V4(Ipv4Addr::new(100, 64, 0, 1));
    flood(
        stage.lab(),
        Payload::Udp { bytes: 64 },
        strangers,
        100,
        to(attacker.node_ipv4()),
        10_000,
    )
    .and_then(|flood| {
        wait_until("the second limit", || {
            Ok(agent
                .metrics()?
                .sum("enforcer_packets_total", &[("limit", "second")])
                > 0.0)
        })?;
        flood.stop()
    })?;
    let token = good_token(stage)?;
    let caller = Caller::at(stage.lab().neighbour(client))?;
    let verified = stage.verified_client()?;
    let bad = Ask::get(BY_TOKEN).with_token(BAD_TOKEN)?;
    for ask in [
        Ask::get(ORDERS).with_token(&token)?,
        Ask::get(ORDERS),
        bad,
        Ask::get(OPEN),
        Ask::get("/nowhere"),
    ] {
        caller.once(&verified, &ask)??;
    }
    for _ in 0..=REPORTS_PER_MINUTE {
        caller.once(&verified, &Ask::get(REPORTS).with_token(&token)?)??;
    }
    let anonymous = stage.client_of(listener(client.node_ipv4()), None, Protocol::Http1)?;
    caller.once(&anonymous, &Ask::get(ORDERS).with_token(&token)?)??;
    let narrow = stage
        .issuer()
        .mint(CLIENT_ID, &[OTHER_SCOPE], Duration::from_secs(600))?;
    caller.once(&verified, &Ask::get(ORDERS).with_token(&narrow)?)??;
    for address in ["192.0.2.1", "192.0.2.2"] {
        agent.command(&[
            "deny",
            address,
            "--for",
            "1m",
            "--reason",
            "x",
            "--runtime-dir",
            "run",
        ])?;
    }
    Ok(())
}

#[test]
fn prometheus_accepts_all_of_it() -> Result<()> {
    let Some(stage) = setting().stage()? else {
        return Ok(());
    };
    touch_everything(&stage)?;
    let agent = stage.agent();
    // Workers add what they have counted every half second.
    let metrics = agent.wait_for("the gateway's verdicts", |metrics| {
        ["allowed", "no_route", "unauthenticated", "forbidden", "limited"]
            .iter()
            .all(|verdict| metrics.sum("enforcer_requests_total", &[("verdict", verdict)]) > 0.0)
    })?;
    let reasons: BTreeSet<&str> = metrics
        .samples("enforcer_packets_total")
        .filter(|sample| sample.value > 0.0)
        .map(|sample| sample.label("reason"))
        .collect();
    for reason in [
        "allowed",
        "denied",
        "limit",
        "verified",
        "within-limits",
        "no-policy",
        "egress-denied",
    ] {
        ensure!(
            reasons.contains(reason),
            "no packet has the reason {reason}: {reasons:?}"
        );
    }
    for sample in metrics.samples("enforcer_packets_total") {
        let names: Vec<&str> = sample.labels.iter().map(|(name, _)| name.as_str()).collect();
        ensure!(
            names == ["direction", "limit", "policy", "reason", "verdict"],
            "{sample:?}"
        );
        ensure!(
            !sample.label("reason").is_empty() && !sample.label("verdict").is_empty(),
            "{sample:?}"
        );
        ensure!(
            (sample.label("reason") == "limit") != sample.label("limit").is_empty(),
            "{sample:?}"
        );
    }
    let answer = agent.get("/metrics")?;
    ensure!(
        answer.header("content-type") == Some("text/plain; version=0.0.4"),
        "{:?}",
        answer.headers
    );
    check_with_promtool(&answer.body)
}

fn check_with_promtool(text: &[u8]) -> Result<()> {
    let mut promtool = Command::new(find_promtool()?)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    promtool.stdin.take().context("promtool reads")?.write_all(text)?;
    let output = promtool.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(
        output.status.success() && said.is_empty(),
        "promtool: {}\n{}",
        output.status,
        String::from_utf8_lossy(&said)
    );
    Ok(())
}

fn find_promtool() -> Result<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/bin/promtool");
    let path = env::var_os("PATH").unwrap_or_default();
    let mut candidates =
        std::iter::once(own).chain(env::split_paths(&path).map(|folder| folder.join("promtool")));
    match candidates.find(|candidate| candidate.is_file()) {
        Some(found) => Ok(found),
        None => bail!("promtool is missing: run `cargo xtask setup`"),
    }
}
