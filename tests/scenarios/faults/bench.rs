//! A node with an agent, and a flow that is over its limit.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::{Command, ExitStatus},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use http::StatusCode;
use lab::{
    agent::{self, Agent, Signal},
    client::Ask,
    privilege::root_or_skip,
    steady::Steady,
    topology::{Lab, Neighbour},
    workspace::Workspace,
};

/// The drain, and how much longer the agent may take, with some time for a busy machine.
pub const DRAIN: Duration = Duration::from_secs(1);
pub const GRACE: Duration = Duration::from_secs(2);
pub const SLACK: Duration = Duration::from_secs(1);
/// How long limits hold without a beat.
pub const DEAD_MAN: Duration = Duration::from_secs(3);
/// The flow's packets a second, and its limit.
const SENT: u32 = 1_000;
const RATE: u64 = 50;
const BURST: u64 = 500;
const PORT: u16 = 9_001;
const PATIENCE: Duration = Duration::from_secs(60);

/// The machine's processors are for one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// What runs. Fields are dropped in this order.
pub struct Bench {
    pub agent: Agent,
    flow: Option<Steady>,
    began: Instant,
    pub workspace: Workspace,
    pub faults: PathBuf,
    _lab: Lab,
    _alone: MutexGuard<'static, ()>,
}

impl Bench {
    /// Starts an agent, with more lines in its configuration. `None`: not root.
    pub fn start(more: &str, adjust: impl FnOnce(&mut Command)) -> Result<Option<Self>> {
        if !root_or_skip() {
            return Ok(None);
        }
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let (lab, workspace) = (Lab::create()?, Workspace::create()?);
        let faults = workspace.path().join("faults");
        std::fs::create_dir(&faults)?;
        workspace.write_config(&format!(
            "policies: [policies]\nruntimeDir: run\n\
             kernel: {{pins: off, deadMan: {DEAD_MAN:?}, sketchMemory: 1MiB, maxFlows: 64}}\n\
             adapt: {{interval: 200ms}}\n\
             gateway:\n  workers: 2\n  drain: {DRAIN:?}\n  listeners: [{{name: plain, address: \"127.0.0.1:8080\"}}]\n{more}"
        ))?;
        workspace.write_policy("edge.yaml", &policy(RATE))?;
        let agent = Agent::start_as(lab.node(), &agent::binary()?, &workspace, |command| {
            command.env("ENFORCER_FAULTS", &faults);
            adjust(command);
        })?;
        let target = SocketAddr::new(Neighbour::Attacker.node_ipv4(), PORT);
        let flow = Steady::start(lab.neighbour(Neighbour::Attacker), lab.node(), target, SENT)?;
        Ok(Some(Self {
            agent,
            flow: Some(flow),
            began: Instant::now(),
            workspace,
            faults,
            _lab: lab,
            _alone: alone,
        }))
    }

    /// Has a part hang or panic.
    pub fn fault(&self, part: &str, fault: &str) -> Result<()> {
        Ok(std::fs::write(self.faults.join(part), fault)?)
    }

    /// Waits until a part is named by `/healthz`; how long that took.
    pub fn wait_for_trouble(&self, part: &str) -> Result<Duration> {
        let began = Instant::now();
        loop {
            if let Ok(answer) = self.agent.ask(Ask::get("/healthz"))?
                && answer.status == StatusCode::SERVICE_UNAVAILABLE
            {
                let text = String::from_utf8(answer.body.to_vec())?;
                ensure!(text.contains(&format!("{part}: ")), "{text}");
                return Ok(began.elapsed());
            }
            if began.elapsed() > PATIENCE {
                bail!("{part} is not named by /healthz: {}", self.agent.log_tail());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// An answer of the admin address, which comes soon.
    pub fn expect(&self, path: &str, status: StatusCode) -> Result<()> {
        let began = Instant::now();
        let answer = self.agent.get(path)?;
        let took = began.elapsed();
        ensure!(
            answer.status == status && took < SLACK,
            "{path}: {} after {took:?}",
            answer.status
        );
        Ok(())
    }

    /// Waits until limits would have lapsed twice without a beat, and makes sure that they have not since the start.
    pub fn expect_limits(&self) -> Result<()> {
        std::thread::sleep(2 * DEAD_MAN);
        self.expect_limits_until_now()
    }

    /// What the flow got through is what its limit admits.
    pub fn expect_limits_until_now(&self) -> Result<()> {
        let Some(flow) = &self.flow else {
            bail!("there is no flow")
        };
        let arrived = flow.arrived();
        let elapsed = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let admitted = BURST + RATE * elapsed / 1_000 + RATE;
        ensure!(
            (BURST..=admitted).contains(&arrived),
            "{arrived} arrived in {elapsed} ms, and the limit admits {admitted}"
        );
        println!("{arrived} arrived in {elapsed} ms, the limit admits {admitted}");
        Ok(())
    }

    /// Has the agent end, which takes as long as the drain and the grace at most.
    pub fn expect_end(&mut self) -> Result<ExitStatus> {
        let began = Instant::now();
        self.agent.signal(Signal::Terminate)?;
        let status = self.agent.wait_until_ended()?;
        let took = began.elapsed();
        println!("ended {took:?} after SIGTERM: {status}");
        ensure!(
            took < DRAIN + GRACE + SLACK,
            "it took {took:?}: {}",
            self.agent.log_tail()
        );
        Ok(status)
    }

    /// Writes a policy that changes nothing but a number.
    pub fn change_policy(&self, round: u64) -> Result<()> {
        let text = format!("{}# {round}\n", policy(RATE));
        self.workspace.write_policy("edge.yaml", &text).map(drop)
    }
}

fn policy(rate: u64) -> String {
    format!(
        "apiVersion: enforcer.dev/v1\nkind: PacketPolicy\nmetadata: {{name: edge}}\nspec:\n  interfaces: [to-attacker]\n  \
         ports: [udp/{PORT}]\n  limits: [{{name: each, per: source, rate: {rate}/s, burst: {BURST}}}]\n"
    )
}
