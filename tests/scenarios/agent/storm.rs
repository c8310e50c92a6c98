//! Storms of failed authentication: what they cost is bounded by how many sources fail, and not by how often.
//!
//! Short by default; with `ENFORCER_FULL=1` a minute of 500 failures a second from 1,000 sources, and then the latency of a
//! verified client is held to a bound too.

use std::{
    fs,
    net::{IpAddr, TcpListener},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lab::{
    client::{Ask, Client, Protocol},
    demo::{screen::Screen, setup::Stage},
    privilege::root_or_skip,
    topology::Neighbour,
};

use crate::{
    ending::expect_broken,
    setting::{
        BAD_TOKEN, BY_TOKEN, Caller, ORDERS, Setting, good_token, listener, packet_policy, wait_until,
    },
    traffic::connect,
};

const AUDIT: &str = "./audit.jsonl";
/// Longer than any storm here.
const DENY: &str = "{rate: 3/m, denyFor: 10m}";

/// How large a storm is.
#[derive(Clone, Copy)]
struct Storm {
    sources: u16,
    per_second: u32,
    lasts: Duration,
}

fn is_full() -> bool {
    std::env::var_os("ENFORCER_FULL").is_some()
}

impl Storm {
    fn new(sources: u16) -> Self {
        let is_full = is_full();
        Self {
            sources: if is_full { sources } else { sources.min(40) },
            per_second: if is_full { 500 } else { 200 },
            lasts: Duration::from_secs(if is_full { 60 } else { 5 }),
        }
    }
}

/// What the agent's process has, and what it has written.
#[derive(Clone, Copy, Debug)]
struct Cost {
    denials: f64,
    spared: f64,
    failures: f64,
    audited: usize,
    logged: usize,
    threads: u64,
    kib: u64,
}

fn cost(stage: &Stage) -> Result<Cost> {
    let metrics = stage.agent().metrics()?;
    let status = fs::read_to_string(format!("/proc/{}/status", stage.agent().pid()))?;
    let of_process = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(number.with_context(|| format!("{name} is not said"))?.parse()?)
    };
    let audit = fs::read_to_string(stage.workspace().path().join(AUDIT))?;
    let log = stage.agent().log();
    Ok(Cost {
        denials: metrics.sum("enforcer_authentication_denials_total", &[]),
        spared: metrics.sum(
            "enforcer_authentication_denials_spared_total",
            &[("why", "shadow")],
        ),
        // Those beyond the rate of attempts are not looked at.
        failures: metrics.sum("enforcer_authentication_failures_total", &[])
            + metrics.sum("enforcer_authentication_attempts_refused_total", &[]),
        audited: audit.lines().filter(|line| line.contains("\"denied\"")).count(),
        logged: log.lines().count(),
        threads: of_process("Threads:")?,
        kib: of_process("VmRSS:")?,
    })
}

fn stage(mode: &str) -> Result<Option<Stage>> {
    if !root_or_skip() {
        return Ok(None);
    }
    let setting = Setting {
        certificates: "optional",
        auth_failures: DENY,
        edge: packet_policy(
            "edge",
            &format!("mode: {mode}\n  interfaces: [to-client, to-attacker]\n  ports: [tcp/8443]"),
        ),
        ..Setting::default()
    };
    let mut plan = setting.plan();
    plan.config += &format!("audit: {{file: {AUDIT}}}\n");
    let stage = Stage::build(&Screen::default(), &plan)?;
    let attacker = stage.lab().neighbour(Neighbour::Attacker);
    attacker.ip(&["route", "add", "local", "198.18.0.0/15", "dev", "lo"])?;
    attacker.ip(&["-6", "route", "add", "local", "2001:db8::/48", "dev", "lo"])?;
    // A local route suffices to bind to an IPv4 address, and not to an IPv6 one.
    attacker.sysctl("ipv6/ip_nonlocal_bind", "1")?;
    let way = Neighbour::Attacker.ipv6().to_string();
    stage
        .lab()
        .node()
        .ip(&["-6", "route", "add", "2001:db8::/48", "via", &way])?;
    Ok(Some(stage))
}

fn source(number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    IpAddr::from([198, 18, high, low])
}

/// Fails as often as the storm says, over one connection of each source for as long as it holds.
fn rage(stage: &Stage, storm: Storm) -> Result<()> {
    let node = Neighbour::Attacker.node_ipv4();
    let client = stage
        .client_of(listener(node), None, Protocol::Http1)?
        .with_patience(Duration::from_millis(500));
    let caller = Caller::at(stage.lab().neighbour(Neighbour::Attacker))?;
    let ask = Ask::get(BY_TOKEN).with_token(BAD_TOKEN)?;
    caller.thread().wait(async move {
        let pause = Duration::from_secs(1) / storm.per_second * u32::from(storm.sources);
        let end = tokio::time::Instant::now() + storm.lasts;
        let mut sources = tokio::task::JoinSet::new();
        for number in 0..storm.sources {
            let (client, ask) = (client.clone().with_source(source(number)), ask.clone());
            let begins = pause * u32::from(number) / u32::from(storm.sources);
            sources.spawn(async move {
                tokio::time::sleep(begins).await;
                let mut ticks = tokio::time::interval(pause);
                let mut open = None;
                while tokio::time::Instant::now() < end {
                    ticks.tick().await;
                    // Whoever is denied gets no connection, and goes on trying.
                    let connection = match open.take() {
                        Some(connection) => Ok(connection),
                        None => client.connect().await,
                    };
                    let Ok(mut connection) = connection else { continue };
                    if connection.send(&ask).await.is_ok() {
                        open = Some(connection);
                    }
                }
            });
        }
        while sources.join_next().await.is_some() {}
    })?;
    Ok(())
}

/// The latency that one of a hundred requests of a verified client is over, in milliseconds, while `beside` runs.
fn p99(stage: &Stage, lasts: Duration) -> Result<f64> {
    let caller = Caller::at(stage.lab().neighbour(Neighbour::Client))?;
    let client = stage.client_of(
        listener(Neighbour::Client.node_ipv4()),
        Some(stage.identity()),
        Protocol::Http1,
    )?;
    let ask = Ask::get(ORDERS).with_token(&good_token(stage)?)?;
    let mut latencies = caller.thread().wait(async move {
        let mut connection = client.connect().await.ok()?;
        let mut latencies = Vec::new();
        let end = Instant::now() + lasts;
        while Instant::now() < end {
            let began = Instant::now();
            let answer = connection.send(&ask).await.ok()?;
            answer.status.is_success().then_some(())?;
            latencies.push(began.elapsed());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Some(latencies)
    })?;
    let latencies = latencies.as_mut().context("the verified client is cut off")?;
    latencies.sort_unstable();
    let place = latencies.len() * 99 / 100;
    let latency = latencies.get(place).context("there were no requests")?;
    Ok(latency.as_secs_f64() * 1e3)
}

fn weather(mode: &str, storm: Storm) -> Result<()> {
    let Some(stage) = stage(mode)? else { return Ok(()) };
    let sources = f64::from(storm.sources);
    let quiet = p99(&stage, storm.lasts / 2)?;
    // What a storm needs is there before it is measured.
    rage(
        &stage,
        Storm {
            lasts: Duration::from_secs(2),
            ..storm
        },
    )?;
    let before = cost(&stage)?;
    let (early, during) = std::thread::scope(|scope| {
        let raging = scope.spawn(|| rage(&stage, storm));
        let early = scope.spawn(|| {
            std::thread::sleep(storm.lasts / 4);
            cost(&stage)
        });
        let during = p99(&stage, storm.lasts);
        let panicked = |_| anyhow::anyhow!("a thread has panicked");
        raging.join().map_err(panicked)??;
        anyhow::Ok((early.join().map_err(panicked)??, during?))
    })?;
    let after = cost(&stage)?;
    // Builds without optimisation share the processors with whoever makes the storm: that is for a look, and for a
    // release by `ENFORCER_BIN`.
    eprintln!(
        "{mode}, {sources} sources: p99 {quiet:.2} ms quiet, {during:.2} ms in the storm ({:.2} times)\n{before:?}\n{after:?}",
        during / quiet
    );
    if mode == "shadow" {
        ensure!(
            after.denials == 0.0 && after.audited == 0,
            "in shadow nobody is denied"
        );
        ensure!(after.spared > 0.0, "and it is counted");
        let failed = after.failures - before.failures;
        let expected = f64::from(storm.per_second) * storm.lasts.as_secs_f64();
        ensure!(
            failed > expected / 4.0,
            "{failed} failures are no storm of {expected}"
        );
    } else {
        ensure!(after.denials >= 1.0 && after.denials <= sources, "each once");
        ensure!(after.audited as f64 <= sources, "{} audit records", after.audited);
        wait_until("all denied", || Ok(cost(&stage)?.denials == sources))?;
    }
    let logged = after.logged - before.logged;
    ensure!(logged as f64 <= sources + 20.0, "{logged} lines in the log");
    ensure!(
        after.threads <= before.threads + 2,
        "{} threads more",
        after.threads - before.threads
    );
    // Connections of all sources are open when it is looked first.
    ensure!(
        after.kib <= early.kib + 4 * 1024,
        "{} KiB more",
        after.kib - early.kib
    );
    Ok(())
}

#[test]
fn h3_a_storm_of_many_sources_in_shadow_costs_counters() -> Result<()> {
    weather("shadow", Storm::new(1_000))
}

#[test]
fn h3_a_storm_of_one_source_in_shadow_costs_counters() -> Result<()> {
    weather("shadow", Storm::new(1))
}

#[test]
fn h3_a_storm_of_many_sources_in_enforce_costs_one_record_a_source() -> Result<()> {
    weather("enforce", Storm::new(1_000))
}

#[test]
fn h3_a_storm_of_one_source_in_enforce_costs_one_record() -> Result<()> {
    weather("enforce", Storm::new(1))
}

/// Fails that often from `source`, over one connection; whether it was served.
fn guess(caller: &Caller, client: &Client, source: IpAddr, times: usize) -> Result<bool> {
    let client = client.clone().with_source(source);
    let ask = Ask::get(BY_TOKEN).with_token(BAD_TOKEN)?;
    caller.thread().wait(async move {
        let Ok(mut connection) = client.connect().await else {
            return false;
        };
        for _ in 0..times {
            if connection.send(&ask).await.is_err() {
                return false;
            }
        }
        true
    })
}

#[test]
fn m2_no_bystander_is_denied_beside_thousands_of_networks_at_the_edge_of_the_rate() -> Result<()> {
    let Some(stage) = stage("enforce")? else {
        return Ok(());
    };
    let networks = if is_full() { 4_096 } else { 128 };
    let network = |n: u16| IpAddr::from([0x2001, 0xdb8, 0, n, 0, 0, 0, 1]);
    let client = stage
        .client_of(listener(Neighbour::Attacker.node_ipv6()), None, Protocol::Http1)?
        .with_patience(Duration::from_secs(5));
    let caller = Caller::at(stage.lab().neighbour(Neighbour::Attacker))?;
    for n in 0..networks {
        ensure!(
            guess(&caller, &client, network(n), 3)?,
            "{n} is at the rate, not over it"
        );
    }
    for n in 50_000..50_050 {
        ensure!(guess(&caller, &client, network(n), 1)?, "{n}'s first failure");
        ensure!(
            guess(&caller, &client, network(n), 1)?,
            "{n} is denied after one failure"
        );
    }
    ensure!(cost(&stage)?.denials == 0.0);
    Ok(())
}

/// In shadow nothing ends; where a policy enforces, only what the source has open with the gateway.
#[test]
fn m1_shadow_ends_nothing_and_other_processes_keep_their_sockets() -> Result<()> {
    const SERVICE: u16 = 7000;
    for mode in ["shadow", "enforce"] {
        let Some(stage) = stage(mode)? else { return Ok(()) };
        let attacker = stage.lab().neighbour(Neighbour::Attacker);
        let node = Neighbour::Attacker.node_ipv4();
        let service = stage
            .lab()
            .node()
            .run(|| Ok(TcpListener::bind(("0.0.0.0", SERVICE))?))?;
        let silent = connect(attacker, listener(node))?;
        let _beside = connect(attacker, (node, SERVICE).into())?;
        let (accepted, _) = service.accept()?;
        let caller = Caller::at(attacker)?;
        let client = stage
            .client_of(listener(node), None, Protocol::Http1)?
            .with_patience(Duration::from_secs(1));
        for _ in 0..5 {
            drop(caller.once(&client, &Ask::get(BY_TOKEN).with_token(BAD_TOKEN)?)?);
        }
        if mode == "shadow" {
            wait_until("it is counted", || Ok(cost(&stage)?.spared >= 2.0))?;
            ensure!(cost(&stage)?.denials == 0.0);
            connect(attacker, listener(node)).context("it goes on")?;
        } else {
            wait_until("it is denied", || Ok(cost(&stage)?.denials == 1.0))?;
            expect_broken(&silent, libc::ECONNRESET).context("a connection of the gateway")?;
        }
        accepted.set_nonblocking(true)?;
        let peeked = accepted.peek(&mut [0]);
        ensure!(
            peeked.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock),
            "another process' socket is open"
        );
        let destroyed = stage
            .agent()
            .metrics()?
            .sum("enforcer_sockets_destroyed_total", &[]);
        ensure!(destroyed == 0.0);
    }
    Ok(())
}
