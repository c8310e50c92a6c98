//! A node with an agent that comes and goes, and flows that do not.

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
    steady::{Outcome, Steady},
    topology::{Lab, Neighbour},
    workspace::Workspace,
};

pub const PACKETS: &str = "enforcer_packets_total";
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Packets a second of the flow that is below its limit.
pub const STEADY: u32 = 5_000;
pub const STEADY_PORT: u16 = 9_000;
/// Packets a second of the flow that is over its limit, and the limit.
pub const EAGER: u32 = 1_000;
pub const EAGER_PORT: u16 = 9_001;
pub const EAGER_RATE: u64 = 10;
pub const EAGER_BURST: u64 = 500;
/// What the limiter's arithmetic and the threads' clocks may differ by, in packets.
pub const TOLERANCE: u64 = 5;

/// The scenarios look at all programs of the machine, so one at a time.
pub static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A node with a BPF file system and, at times, an agent.
pub struct Bench {
    pub agent: Option<Agent>,
    pub binary: PathBuf,
    pub workspace: Workspace,
    pub lab: Lab,
    pub bpffs: Bpffs,
    _alone: MutexGuard<'static, ()>,
}

impl Bench {
    pub fn start(kernel: &str) -> Result<Self> {
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

    pub fn configure(&self, kernel: &str) -> Result<()> {
        let pins = self.bpffs.pins();
        let config = format!(
            "policies: [policies]\nruntimeDir: run\nkernel: {{pins: {}, {kernel}}}\nadapt: {{interval: 100ms}}\n",
            pins.display()
        );
        self.workspace.write_config(&config)?;
        Ok(())
    }

    pub fn run_agent(&mut self) -> Result<()> {
        self.agent = Some(Agent::start(self.lab.node(), &self.binary, &self.workspace)?);
        Ok(())
    }

    pub fn agent(&self) -> Result<&Agent> {
        self.agent.as_ref().context("no agent runs")
    }

    /// Ends the agent and starts the next.
    pub fn replace_agent(&mut self, signal: Signal) -> Result<()> {
        self.stop(signal)?;
        self.run_agent()
    }

    pub fn stop(&mut self, signal: Signal) -> Result<()> {
        if let Some(agent) = self.agent.take() {
            agent.stop(signal)?;
        }
        Ok(())
    }

    pub fn steady(&self) -> Result<Steady> {
        self.flow(Neighbour::Client, STEADY_PORT, STEADY)
    }

    pub fn eager(&self) -> Result<Steady> {
        self.flow(Neighbour::Attacker, EAGER_PORT, EAGER)
    }

    pub fn flow(&self, from: Neighbour, port: u16, rate: u32) -> Result<Steady> {
        let target = SocketAddr::new(from.node_ipv4(), port);
        Steady::start(self.lab.neighbour(from), self.lab.node(), target, rate)
    }

    pub fn kernel_status(&self) -> Result<serde_json::Value> {
        let status: serde_json::Value = serde_json::from_slice(&self.agent()?.get("/v1/status")?.body)?;
        Ok(status["kernel"].clone())
    }

    pub fn detach(&self) -> Result<Output> {
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

pub fn policies() -> String {
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

pub fn assert_kept(bench: &Bench) -> Result<()> {
    let status = bench.kernel_status()?;
    assert_eq!(status["state"], "kept", "{status}");
    assert!(status["stateWhy"].is_null(), "{status}");
    Ok(())
}

pub fn assert_nothing_lost(outcome: &Outcome) {
    assert!(outcome.sent > 1_000, "{outcome:?}");
    assert_eq!(
        (outcome.arrived, &outcome.missing[..]),
        (outcome.sent, &[][..]),
        "{outcome:?}"
    );
}

/// What a token bucket that nobody refilled has admitted.
pub fn assert_limited_throughout(outcome: &Outcome) {
    let refilled = u64::try_from(outcome.elapsed.as_millis()).unwrap_or(u64::MAX) * EAGER_RATE / 1_000;
    let bound = EAGER_BURST + refilled;
    assert!(outcome.sent > 2 * bound, "{outcome:?}");
    assert!(
        (bound - TOLERANCE..=bound + TOLERANCE).contains(&outcome.arrived),
        "{bound} by the algorithm: {outcome:?}"
    );
}

pub fn over_limit(metrics: &Metrics) -> f64 {
    metrics.sum(
        PACKETS,
        &[("policy", "narrow"), ("reason", "limit"), ("verdict", "drop")],
    )
}

pub fn gone(metrics: &Metrics) -> f64 {
    metrics.sum(PACKETS, &[("policy", "narrow"), ("reason", "agent-gone")])
}

pub fn wait_until(what: &str, mut wanted: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !wanted()? {
        if Instant::now() > deadline {
            bail!("{what}: not within {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

pub fn only_folder(root: &Path) -> Result<PathBuf> {
    let mut entries = std::fs::read_dir(root)?;
    let folder = entries.next().context("nothing is pinned")??.path();
    ensure!(
        entries.next().is_none(),
        "there is more than {}",
        folder.display()
    );
    Ok(folder)
}
