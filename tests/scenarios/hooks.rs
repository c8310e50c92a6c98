//! How the programs are attached on the kernel at hand, whichever that is: as links where it has TCX, else as
//! filters. Either way the node's own connections are denied, and a new agent takes the place of a killed one.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use lab::{
    agent::{self, Agent, Signal},
    netns::Namespace,
    privilege::root_or_skip,
    topology::{Lab, Neighbour},
    workspace::Workspace,
};

const PORT: u16 = 7000;
/// How long a connection may take that nothing hinders, and after which one counts as denied.
const PATIENCE: Duration = Duration::from_secs(2);
const DENIED: Neighbour = Neighbour::UpstreamA;
const ALLOWED: Neighbour = Neighbour::UpstreamB;

const CONFIG: &str = "policies: [policies]
admin: {address: 127.0.0.1:9600}
runtimeDir: run
kernel: {xdp: auto, sketchMemory: 1MiB, maxFlows: 4096, pins: off}
";

/// What attaches a program that sees what leaves an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Tcx,
    Clsact,
}

impl Mode {
    /// The better one of this kernel: TCX came with Linux 6.6.
    fn of_this_kernel() -> Result<Self> {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let mut numbers = release.split('.').map(str::parse::<u32>);
        let major = numbers.next().context("the kernel has no release")??;
        let minor = numbers.next().context("the kernel has half a release")??;
        Ok(if (major, minor) >= (6, 6) {
            Self::Tcx
        } else {
            Self::Clsact
        })
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }

    /// How many programs are on the way out of `interface` in this mode.
    fn programs(self, node: &Namespace, interface: &str) -> Result<usize> {
        match self {
            Self::Tcx => node.run(|| {
                let (_, programs) = SchedClassifier::query_tcx(interface, TcAttachType::Egress)?;
                Ok(programs.len())
            }),
            Self::Clsact => {
                let text = output(
                    node.command("tc")?
                        .args(["filter", "show", "dev", interface, "egress"]),
                )?;
                Ok(text
                    .lines()
                    .filter(|line| line.contains("enforcer_tc_egress"))
                    .count())
            }
        }
    }
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// A node, of which the neighbours listen, and the folder of its agent.
struct Stage {
    lab: Lab,
    workspace: Workspace,
    /// Kept open.
    _listeners: Vec<TcpListener>,
}

impl Stage {
    fn build() -> Result<Self> {
        let lab = Lab::create()?;
        let workspace = Workspace::create()?;
        workspace.write_config(CONFIG)?;
        workspace.write_policy(
            "edge.yaml",
            &format!(
                "apiVersion: enforcer.dev/v1
kind: PacketPolicy
metadata: {{name: edge}}
spec:
  mode: enforce
  interfaces: [{}, {}]
  egress:
    deny: [{}/32, {}/128]
",
                DENIED.node_interface(),
                ALLOWED.node_interface(),
                DENIED.ipv4(),
                DENIED.ipv6()
            ),
        )?;
        let mut listeners = Vec::new();
        for neighbour in [DENIED, ALLOWED] {
            for address in [neighbour.ipv4(), neighbour.ipv6()] {
                let address = SocketAddr::new(address, PORT);
                listeners.push(lab.neighbour(neighbour).run(|| Ok(TcpListener::bind(address)?))?);
            }
        }
        Ok(Self {
            lab,
            workspace,
            _listeners: listeners,
        })
    }

    fn start(&self) -> Result<Agent> {
        Agent::start(self.lab.node(), &agent::binary()?, &self.workspace)
    }

    /// Whether the node's own connections reach a neighbour.
    fn is_reached(&self, address: IpAddr) -> Result<bool> {
        let address = SocketAddr::new(address, PORT);
        self.lab
            .node()
            .run(|| match TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(false),
                Err(error) => Err(error).with_context(|| format!("connecting to {address}")),
            })
    }

    fn check_denial(&self) -> Result<()> {
        for address in [DENIED.ipv4(), DENIED.ipv6()] {
            ensure!(!self.is_reached(address)?, "{address} is reached");
        }
        for address in [ALLOWED.ipv4(), ALLOWED.ipv6()] {
            ensure!(self.is_reached(address)?, "{address} is not reached");
        }
        Ok(())
    }
}

/// What the agent reports of its interfaces: name, XDP's mode, TC's mode.
fn reported(agent: &Agent) -> Result<Vec<[String; 3]>> {
    let answer = agent.get("/v1/status")?;
    let status: serde_json::Value = serde_json::from_slice(&answer.body)?;
    let interfaces = status["kernel"]["interfaces"]
        .as_array()
        .context("no interfaces")?;
    Ok(interfaces
        .iter()
        .map(|each| ["name", "xdp", "tc"].map(|key| each[key].as_str().unwrap_or_default().to_owned()))
        .collect())
}

#[test]
fn the_kernels_best_mode_is_reported_and_denies_what_leaves() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mode = Mode::of_this_kernel()?;
    println!("egress on this kernel: {}", mode.name());
    let stage = Stage::build()?;
    for address in [DENIED.ipv4(), DENIED.ipv6()] {
        ensure!(
            stage.is_reached(address)?,
            "{address} is not reached without an agent"
        );
    }
    let agent = stage.start()?;
    let expected = [DENIED, ALLOWED]
        .map(|neighbour| [neighbour.node_interface(), "native", mode.name()].map(str::to_owned));
    let mut reported = reported(&agent)?;
    reported.sort();
    ensure!(reported == expected, "{reported:?}");
    stage.check_denial()?;
    agent.stop(Signal::Terminate)?;
    for address in [DENIED.ipv4(), DENIED.ipv6()] {
        ensure!(stage.is_reached(address)?, "{address} is still denied");
    }
    ensure!(mode.programs(stage.lab.node(), DENIED.node_interface())? == 0);
    Ok(())
}

#[test]
fn a_new_agent_takes_the_place_of_one_that_was_killed() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mode = Mode::of_this_kernel()?;
    let stage = Stage::build()?;
    let programs = || mode.programs(stage.lab.node(), DENIED.node_interface());
    let agent = stage.start()?;
    ensure!(programs()? == 1);
    agent.stop(Signal::Kill)?;
    // A link ends with its agent; a filter stays, and goes on denying.
    let left = usize::from(mode == Mode::Clsact);
    ensure!(programs()? == left, "{} programs are left", programs()?);
    let agent = stage.start()?;
    ensure!(programs()? == 1, "{} programs", programs()?);
    stage.check_denial()?;
    agent.stop(Signal::Terminate)?;
    ensure!(programs()? == 0, "{} programs are left", programs()?);
    Ok(())
}
