//! Staying up: what a restart, an upgrade, a crash and a change of layout mean for packets under way.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Output,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use lab::{
    agent::{self, Agent, Signal},
    bpffs::Bpffs,
    metrics::Metrics,
    privilege::root_or_skip,
    residue,
    steady::{Outcome, Steady},
    topology::{Lab, Neighbour},
    workspace::Workspace,
};

const PACKETS: &str = "enforcer_packets_total";
const PATIENCE: Duration = Duration::from_secs(20);
/// Packets a second of the flow that is below its limit.
const STEADY: u32 = 5_000;
const STEADY_PORT: u16 = 9_000;
/// Packets a second of the flow that is over its limit, and the limit.
const EAGER: u32 = 1_000;
const EAGER_PORT: u16 = 9_001;
const EAGER_RATE: u64 = 10;
const EAGER_BURST: u64 = 500;
/// What the limiter's arithmetic and the threads' clocks may differ by, in packets.
const TOLERANCE: u64 = 5;

/// The scenarios look at all programs of the machine, so one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A node with a BPF file system and, at times, an agent.
struct Bench {
    agent: Option<Agent>,
    binary: PathBuf,
    workspace: Workspace,
    lab: Lab,
    bpffs: Bpffs,
    _alone: MutexGuard<'static, ()>,
}

impl Bench {
    fn start(kernel: &str) -> Result<Self> {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bench = Self {
            agent: None,
            binary: agent::binary()?,
            workspace: Workspace::create()?,
            lab: Lab::create()?,
            bpffs: Bpffs::mount()?,
            _alone: alone,
        };
        bench.configure(kernel)?;
        bench.workspace.write_policy("edge.yaml", &policies())?;
        bench.run_agent()?;
        Ok(bench)
    }

    fn configure(&self, kernel: &str) -> Result<()> {
        let pins = self.bpffs.pins();
        let config = format!(
            "policies: [policies]\nruntimeDir: run\nkernel: {{pins: {}, {kernel}}}\nadapt: {{interval: 100ms}}\n",
            pins.display()
        );
        self.workspace.write_config(&config)?;
        Ok(())
    }

    fn run_agent(&mut self) -> Result<()> {
        self.agent = Some(Agent::start(self.lab.node(), &self.binary, &self.workspace)?);
        Ok(())
    }

    fn agent(&self) -> Result<&Agent> {
        self.agent.as_ref().context("no agent runs")
    }

    /// Ends the agent and starts the next.
    fn replace_agent(&mut self, signal: Signal) -> Result<()> {
        self.stop(signal)?;
        self.run_agent()
    }

    fn stop(&mut self, signal: Signal) -> Result<()> {
        if let Some(agent) = self.agent.take() {
            agent.stop(signal)?;
        }
        Ok(())
    }

    fn steady(&self) -> Result<Steady> {
        self.flow(Neighbour::Client, STEADY_PORT, STEADY)
    }

    fn eager(&self) -> Result<Steady> {
        self.flow(Neighbour::Attacker, EAGER_PORT, EAGER)
    }

    fn flow(&self, from: Neighbour, port: u16, rate: u32) -> Result<Steady> {
        let target = SocketAddr::new(from.node_ipv4(), port);
        Steady::start(self.lab.neighbour(from), self.lab.node(), target, rate)
    }

    fn kernel_status(&self) -> Result<serde_json::Value> {
        let status: serde_json::Value = serde_json::from_slice(&self.agent()?.get("/v1/status")?.body)?;
        Ok(status["kernel"].clone())
    }

    fn detach(&self) -> Result<Output> {
        self.lab
            .node()
            .command(&self.binary)?
            .arg("detach")
            .arg("--pins")
            .arg(self.bpffs.pins())
            .output()
            .context("`enforcer detach` did not start")
    }
}

fn policies() -> String {
    format!(
        r#"apiVersion: enforcer.dev/v1
kind: PacketPolicy
metadata: {{name: wide}}
spec:
  interfaces: [to-client, to-attacker, to-upstream-a]
  ports: [udp/{STEADY_PORT}]
  deny: [{denied}]
  limits: [{{name: per-source, per: source, rate: 20000/s, burst: 40000}}]
---
apiVersion: enforcer.dev/v1
kind: PacketPolicy
metadata: {{name: narrow}}
spec:
  interfaces: [to-client, to-attacker]
  ports: [udp/{EAGER_PORT}]
  limits: [{{name: per-source, per: source, rate: {EAGER_RATE}/s, burst: {EAGER_BURST}}}]
"#,
        denied = Neighbour::UpstreamA.ipv4(),
    )
}

fn assert_kept(bench: &Bench) -> Result<()> {
    let status = bench.kernel_status()?;
    assert_eq!(status["state"], "kept", "{status}");
    assert!(status["stateWhy"].is_null(), "{status}");
    Ok(())
}

fn assert_nothing_lost(outcome: &Outcome) {
    assert!(outcome.sent > 1_000, "{outcome:?}");
    assert_eq!(
        (outcome.arrived, &outcome.missing[..]),
        (outcome.sent, &[][..]),
        "{outcome:?}"
    );
}

/// What a token bucket that nobody refilled has admitted.
fn assert_limited_throughout(outcome: &Outcome) {
    let refilled = u64::try_from(outcome.elapsed.as_millis()).unwrap_or(u64::MAX) * EAGER_RATE / 1_000;
    let bound = EAGER_BURST + refilled;
    assert!(outcome.sent > 2 * bound, "{outcome:?}");
    assert!(
        (bound - TOLERANCE..=bound + TOLERANCE).contains(&outcome.arrived),
        "{bound} by the algorithm: {outcome:?}"
    );
}

fn over_limit(metrics: &Metrics) -> f64 {
    metrics.sum(
        PACKETS,
        &[("policy", "narrow"), ("reason", "limit"), ("verdict", "drop")],
    )
}

fn gone(metrics: &Metrics) -> f64 {
    metrics.sum(PACKETS, &[("policy", "narrow"), ("reason", "agent-gone")])
}

fn wait_until(what: &str, mut wanted: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !wanted()? {
        if Instant::now() > deadline {
            bail!("{what}: not within {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[test]
fn a_restart_an_upgrade_and_a_crash_lose_no_packet_and_no_state() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let before = residue::find("enf-")?;
    let mut bench = Bench::start("sketchMemory: 1MiB")?;
    assert_eq!(bench.kernel_status()?["state"], "fresh");
    let deny = bench.agent()?.command(&[
        "deny",
        "192.0.2.9",
        "--for",
        "10m",
        "--reason",
        "ticket 4711",
        "--runtime-dir",
        "run",
    ])?;
    ensure!(deny.status.success(), "{deny:?}");
    let (steady, eager) = (bench.steady()?, bench.eager()?);
    let counted = bench
        .agent()?
        .wait_for("packets over the limit", |metrics| over_limit(metrics) > 500.0)?;

    bench.replace_agent(Signal::Terminate)?;
    assert_kept(&bench)?;
    // Counters go on too.
    assert!(over_limit(&bench.agent()?.metrics()?) > over_limit(&counted));

    let next = bench.workspace.path().join("enforcer-next");
    std::fs::copy(&bench.binary, &next)?;
    bench.binary = next;
    bench.replace_agent(Signal::Terminate)?;
    assert_kept(&bench)?;

    bench.replace_agent(Signal::Kill)?;
    assert_kept(&bench)?;
    let ended = bench.agent()?.metrics()?;
    bench.agent()?.wait_for("limits that go on", |metrics| {
        over_limit(metrics) > over_limit(&ended) + 500.0
    })?;

    let (steady, eager) = (steady.finish()?, eager.finish()?);
    println!("steady {steady:?}\neager {eager:?}");
    assert_nothing_lost(&steady);
    assert_limited_throughout(&eager);
    assert_eq!(gone(&bench.agent()?.metrics()?), 0.0);
    assert_denial_is_known(&bench)?;

    // While an agent runs, nobody takes its programs away.
    let refused = bench.detach()?;
    assert!(!refused.status.success());
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("another agent uses the pins"),
        "{refused:?}"
    );
    bench.stop(Signal::Terminate)?;
    assert!(bench.bpffs.pinned()?.len() > 10);
    let detached = bench.detach()?;
    ensure!(detached.status.success(), "{detached:?}");
    assert_eq!(bench.bpffs.pinned()?, Vec::<String>::new());
    let flow = bench.steady()?;
    wait_until("packets after `detach`", || Ok(flow.arrived() > 2_000))?;
    assert_nothing_lost(&flow.finish()?);
    let prefix = bench.lab.prefix().to_owned();
    drop(bench);
    residue::wait_for_none(&prefix, &before, PATIENCE)
}

/// A denial of an agent before, with its reason; and it can be taken back.
fn assert_denial_is_known(bench: &Bench) -> Result<()> {
    let agent = bench.agent()?;
    let denials: serde_json::Value = serde_json::from_slice(&agent.get("/v1/denials")?.body)?;
    assert_eq!(denials[0]["prefix"], "192.0.2.9/32", "{denials}");
    assert_eq!(denials[0]["reason"], "ticket 4711", "{denials}");
    assert_eq!(denials[0]["kind"], "denied-by-operator", "{denials}");
    let allow = agent.command(&["allow", "192.0.2.9", "--runtime-dir", "run"])?;
    ensure!(allow.status.success(), "{allow:?}");
    assert_eq!(agent.get("/v1/denials")?.body, "[]");
    Ok(())
}

#[test]
fn another_layout_begins_anew_without_losing_a_packet_and_says_so() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut bench = Bench::start("sketchMemory: 64KiB")?;
    let steady = bench.steady()?;

    bench.stop(Signal::Terminate)?;
    bench.configure("sketchMemory: 128KiB")?;
    bench.run_agent()?;
    let status = bench.kernel_status()?;
    assert_eq!(status["state"], "fresh");
    let why = status["stateWhy"].as_str().unwrap_or_default().to_owned();
    assert!(
        why.contains("SKETCH") && why.contains("1024 entries") && why.contains("2048 entries"),
        "{why}"
    );
    let text = bench.agent()?.command(&["status"])?;
    assert!(
        String::from_utf8_lossy(&text.stdout).contains("state begun fresh (map SKETCH"),
        "{text:?}"
    );

    // As if the agent before had another version of the layout.
    bench.stop(Signal::Terminate)?;
    let version = only_folder(&bench.bpffs.pins())?;
    std::fs::rename(&version, bench.bpffs.pins().join("v0"))?;
    bench.run_agent()?;
    let status = bench.kernel_status()?;
    assert_eq!(status["state"], "fresh");
    assert!(
        status["stateWhy"]
            .as_str()
            .is_some_and(|why| why.contains("another version is pinned")),
        "{status}"
    );
    assert_eq!(only_folder(&bench.bpffs.pins())?, version);

    bench.replace_agent(Signal::Terminate)?;
    assert_kept(&bench)?;
    let outcome = steady.finish()?;
    println!("steady {outcome:?}");
    assert_nothing_lost(&outcome);
    Ok(())
}

fn only_folder(root: &Path) -> Result<PathBuf> {
    let mut entries = std::fs::read_dir(root)?;
    let folder = entries.next().context("nothing is pinned")??.path();
    ensure!(
        entries.next().is_none(),
        "there is more than {}",
        folder.display()
    );
    Ok(folder)
}

#[test]
fn limits_lapse_when_the_agent_is_gone_and_return_with_it() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut bench = Bench::start("sketchMemory: 1MiB, deadMan: 2s")?;
    let eager = bench.eager()?;
    let denied = bench.flow(Neighbour::UpstreamA, STEADY_PORT, 100)?;
    bench
        .agent()?
        .wait_for("packets over the limit", |metrics| over_limit(metrics) > 500.0)?;
    assert_eq!(gone(&bench.agent()?.metrics()?), 0.0);

    let killed = Instant::now();
    bench.stop(Signal::Kill)?;
    let arrived = eager.arrived();
    // More than the limit would let through in all the time that this waits.
    wait_until("limits lapse", || Ok(eager.arrived() > arrived + EAGER_BURST))?;
    assert!(
        killed.elapsed() > Duration::from_millis(1_500),
        "not before the configured time: {:?}",
        killed.elapsed()
    );

    bench.run_agent()?;
    let back = bench.agent()?.metrics()?;
    assert!(gone(&back) > 0.0);
    let limited = bench.agent()?.wait_for("limits return", |metrics| {
        over_limit(metrics) > over_limit(&back) + 1_000.0
    })?;
    // All that is limited now was counted as lapsed before, and no more than a start takes came to it.
    let later = bench.agent()?.wait_for("limits stay", |metrics| {
        over_limit(metrics) > over_limit(&limited)
    })?;
    assert_eq!(gone(&later), gone(&limited));
    println!("agent-gone {}, over limit {}", gone(&later), over_limit(&later));

    // A policy's deny list holds throughout.
    assert_eq!(denied.finish()?.arrived, 0);
    eager.finish()?;
    Ok(())
}

#[test]
fn a_stop_that_is_to_detach_leaves_nothing() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let before = residue::find("enf-")?;
    let mut bench = Bench::start("onStop: detach")?;
    assert!(bench.bpffs.pinned()?.len() > 10);
    bench.stop(Signal::Terminate)?;
    assert_eq!(bench.bpffs.pinned()?, Vec::<String>::new());
    let prefix = bench.lab.prefix().to_owned();
    drop(bench);
    residue::wait_for_none(&prefix, &before, PATIENCE)
}
