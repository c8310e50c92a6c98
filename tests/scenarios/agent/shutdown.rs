//! The agent's end: asked to, under load, it loses nothing; killed, it cuts nobody off.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use http::StatusCode;
use lab::{
    agent::Signal,
    client::{Ask, Client, Connection, Failure, Protocol},
    demo::setup::Stage,
    frame::Payload,
    topology::Neighbour,
};
use tokio::task::JoinSet;

use crate::{
    hooks::{Hooks, NATIVE},
    setting::{BAD_TOKEN, Caller, ORDERS, Setting, good_token, listener, packet_policy, wait_until},
    traffic::{Sink, connect, flood, listen, packets, send},
};

const UPSTREAM_DELAY: Duration = Duration::from_millis(200);
const DRAIN: Duration = Duration::from_secs(5);
const CONNECTIONS: u64 = 6;
const STREAMS: u64 = 4;

/// What clients saw until their connections took no more requests.
#[derive(Debug, Default)]
struct Tally {
    answered: u64,
    /// Answers that said `connection: close`.
    closing: u64,
    /// Ends of connections with nothing under way.
    ended: u64,
    lost: Vec<String>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.closing += other.closing;
        self.ended += other.ended;
        self.lost.extend(other.lost);
    }
}

/// Asks again and again until the connection ends.
async fn keep_asking(mut connection: Connection, ask: Ask, answered: Arc<AtomicU64>) -> Tally {
    let mut tally = Tally::default();
    loop {
        match connection.send(&ask).await {
            Ok(answer) if answer.status == StatusCode::OK => {
                tally.answered += 1;
                answered.fetch_add(1, Ordering::Relaxed);
                if answer.header("connection") == Some("close") {
                    tally.closing += 1;
                    return tally;
                }
            }
            Ok(answer) => {
                tally.lost.push(answer.status.to_string());
                return tally;
            }
            Err(Failure::Unsent) => {
                tally.ended += 1;
                return tally;
            }
            Err(failure) => {
                tally.lost.push(failure.to_string());
                return tally;
            }
        }
    }
}

/// All connections of a client, each with as many requests at a time as its protocol allows.
async fn ask_over_many(client: Client, ask: Ask, answered: Arc<AtomicU64>) -> Tally {
    let mut workers = JoinSet::new();
    let mut total = Tally::default();
    for _ in 0..CONNECTIONS {
        match client.connect().await {
            Err(failure) => total.lost.push(failure.to_string()),
            Ok(connection) => {
                for stream in (1..STREAMS).filter_map(|_| connection.shared()) {
                    workers.spawn(keep_asking(stream, ask.clone(), Arc::clone(&answered)));
                }
                workers.spawn(keep_asking(connection, ask.clone(), Arc::clone(&answered)));
            }
        }
    }
    while let Some(tally) = workers.join_next().await {
        total.add(tally.unwrap_or_default());
    }
    total
}

fn terminate_under_load(protocol: Protocol) -> Result<()> {
    let Some(mut stage) = Setting::default().stage()? else {
        return Ok(());
    };
    for upstream in stage.upstreams() {
        upstream.set_delay(UPSTREAM_DELAY);
    }
    let interface = Neighbour::Client.node_interface();
    let attached = Hooks::of(stage.lab().node(), interface)?;
    ensure!(
        attached.xdp.is_some_and(|(mode, _)| mode == NATIVE) && attached.egress.len() == 1,
        "{attached:?}"
    );
    let gateway = listener(Neighbour::Client.node_ipv4());
    let client = stage.client_of(gateway, Some(stage.identity()), protocol)?;
    let ask = Ask::get(ORDERS).with_token(&good_token(&stage)?)?;
    let answered = Arc::new(AtomicU64::new(0));
    let load = ask_over_many(client.clone(), ask.clone(), Arc::clone(&answered));
    let pending = stage.client_thread().begin(load);
    let streams = match protocol {
        Protocol::Http1 => CONNECTIONS,
        Protocol::Http2 => CONNECTIONS * STREAMS,
    };
    wait_until("every stream has been answered twice", || {
        Ok(answered.load(Ordering::Relaxed) >= 2 * streams)
    })?;

    let asked_to_end = Instant::now();
    stage.agent().signal(Signal::Terminate)?;
    let status = stage.agent_mut().wait_until_ended()?;
    let took = asked_to_end.elapsed();
    let tally = pending.wait()?;

    let log = stage.agent().log_tail();
    ensure!(status.code() == Some(0), "{status}; {log}");
    ensure!(took < DRAIN, "it took {took:?}; {log}");
    ensure!(tally.lost.is_empty(), "lost: {:?}; {log}", tally.lost);
    ensure!(
        tally.answered == stage.served().iter().sum::<u64>(),
        "{tally:?}, and the upstreams have served {:?}",
        stage.served()
    );
    // HTTP/1.1 announces the end in the last answer, HTTP/2 by GOAWAY.
    match protocol {
        Protocol::Http1 => ensure!(tally.closing == streams, "{tally:?}"),
        Protocol::Http2 => ensure!(tally.ended == streams && tally.closing == 0, "{tally:?}"),
    }
    ensure!(stage.agent().log().contains(r#""requests_cut":0"#), "{log}");
    let later = stage.ask(client, ask)?;
    ensure!(matches!(later, Err(Failure::Connect(_))), "{later:?}");
    ensure!(Hooks::of(stage.lab().node(), interface)?.is_empty());
    wait_until("the programs unloaded", || Ok(!attached.are_loaded()))
}

#[test]
fn termination_loses_no_request_over_http1() -> Result<()> {
    terminate_under_load(Protocol::Http1)
}

#[test]
fn termination_loses_no_request_over_http2() -> Result<()> {
    terminate_under_load(Protocol::Http2)
}

/// What an upstream does not answer in time is cut, counted, and does not keep the agent.
#[test]
fn a_request_longer_than_the_drain_time_is_cut() -> Result<()> {
    let setting = Setting {
        drain: "500ms",
        ..Setting::default()
    };
    let Some(mut stage) = setting.stage()? else {
        return Ok(());
    };
    for upstream in stage.upstreams() {
        upstream.set_delay(DRAIN);
    }
    let ask = Ask::get(ORDERS).with_token(&good_token(&stage)?)?;
    let client = stage.verified_client()?;
    let pending = stage
        .client_thread()
        .begin(async move { client.once(&ask).await });
    wait_until("the request at an upstream", || {
        Ok(stage.upstreams().iter().any(|upstream| upstream.begun() == 1))
    })?;
    let asked_to_end = Instant::now();
    stage.agent().signal(Signal::Terminate)?;
    let status = stage.agent_mut().wait_until_ended()?;
    let took = asked_to_end.elapsed();
    ensure!(
        status.code() == Some(0) && took < DRAIN / 2,
        "{status} after {took:?}"
    );
    ensure!(pending.wait()?.is_err());
    let log = stage.agent().log();
    ensure!(
        log.contains(r#""requests_cut":1"#),
        "{}",
        stage.agent().log_tail()
    );
    Ok(())
}

/// Who asks twice does not want to wait for requests under way.
#[test]
fn f9_a_second_signal_ends_the_drain_at_once() -> Result<()> {
    let setting = Setting {
        drain: "60s",
        ..Setting::default()
    };
    let Some(mut stage) = setting.stage()? else {
        return Ok(());
    };
    for upstream in stage.upstreams() {
        upstream.set_delay(Duration::from_secs(120));
    }
    let ask = Ask::get(ORDERS).with_token(&good_token(&stage)?)?;
    let client = stage.verified_client()?;
    let pending = stage
        .client_thread()
        .begin(async move { client.once(&ask).await });
    wait_until("the request at an upstream", || {
        Ok(stage.upstreams().iter().any(|upstream| upstream.begun() == 1))
    })?;
    stage.agent().signal(Signal::Terminate)?;
    wait_until("it drains", || Ok(stage.agent().log().contains("stopping")))?;
    let asked_again = Instant::now();
    stage.agent().signal(Signal::Terminate)?;
    let status = stage.agent_mut().wait_until_ended()?;
    let took = asked_again.elapsed();
    ensure!(
        status.code() == Some(1) && took < Duration::from_secs(2),
        "{status} after {took:?}"
    );
    ensure!(pending.wait()?.is_err());
    Ok(())
}

/// Packets of strangers to the gateway's port are limited; nothing else on the interfaces is.
fn edge() -> String {
    packet_policy(
        "edge",
        "interfaces: [to-client, to-attacker]
  ports: [tcp/8443]
  limits:
    - {name: per-source, per: source, rate: 100/s, burst: 200}
  verified: {rate: 20000/s, burst: 40000}",
    )
}

/// A killed agent takes its programs with it: the node is unprotected, and reachable.
#[test]
fn a_killed_agent_cuts_nobody_off_and_starts_again() -> Result<()> {
    let setting = Setting {
        edge: edge(),
        certificates: "optional",
        ..Setting::default()
    };
    let Some(mut stage) = setting.stage()? else {
        return Ok(());
    };
    let _service = listen(stage.lab().node(), 7000)?;
    let sink = Sink::listen(stage.lab().node(), 7001)?;
    let ask = Ask::get(ORDERS).with_token(&good_token(&stage)?)?;
    let caller = Caller::at(stage.lab().neighbour(Neighbour::Client))?;
    let load = ask_over_many(stage.verified_client()?, ask.clone(), Arc::default());
    let pending = stage.client_thread().begin(load);
    let gateway = listener(Neighbour::Attacker.node_ipv4());
    let spoofed = IpAddr::V4(Ipv4Addr::new(100, 64, 0, 1));
    let flooding = flood(stage.lab(), Payload::TcpSyn, spoofed, 1, gateway, 20_000)?;
    dropped_by_limit(&stage)?;
    let attached = Hooks::of(stage.lab().node(), Neighbour::Attacker.node_interface())?;

    stage.agent().signal(Signal::Kill)?;
    let status = stage.agent_mut().wait_until_ended()?;
    ensure!(status.code().is_none(), "{status}");
    pending.wait()?;
    wait_until(
        "the programs gone with the process",
        || Ok(!attached.are_loaded()),
    )?;
    for neighbour in [Neighbour::Client, Neighbour::Attacker] {
        let namespace = stage.lab().neighbour(neighbour);
        ensure!(Hooks::of(stage.lab().node(), neighbour.node_interface())?.is_empty());
        for node in [neighbour.node_ipv4(), neighbour.node_ipv6()] {
            connect(namespace, SocketAddr::new(node, 7000))?;
            send(namespace, SocketAddr::new(node, 7001), 1)?;
            wait_until("a datagram past the dead agent", || Ok(sink.take()? == 1))?;
        }
    }

    stage.restart_agent()?;
    dropped_by_limit(&stage)?;
    let answer = caller.once(&stage.verified_client()?, &ask)??;
    ensure!(answer.status == StatusCode::OK, "{}", answer.status);
    let refused = Ask::get(ORDERS).with_token(BAD_TOKEN)?;
    let answer = caller.once(&stage.verified_client()?, &refused)??;
    ensure!(answer.status == StatusCode::UNAUTHORIZED, "{}", answer.status);
    flooding.stop()?;
    Ok(())
}

fn dropped_by_limit(stage: &Stage) -> Result<()> {
    wait_until("packets of the flood dropped", || {
        Ok(packets(stage.agent(), &[("limit", "per-source"), ("verdict", "drop")])? > 1000)
    })
}
