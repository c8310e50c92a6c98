//! Who is compared, and how each is started.

use std::{
    fs::File,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use super::{
    configs, crowd,
    ground::{Ground, ORIGIN, PROXY_PROCESSOR, loopback},
    process::Process,
    work::{self, Case, Sample},
};
use crate::{
    agent::{self, Agent},
    cleanup,
    client::{Ask, Protocol},
    sys,
};

const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
/// How long a proxy may take to end once it is told to.
const TO_END: Duration = Duration::from_secs(2);
/// Connections at which memory is looked at first.
const FEW: usize = 64;

/// A row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Proxy {
    /// A bare forwarder on the same stack: see [`super::floor`].
    Floor,
    Enforcer,
    Nginx,
    Haproxy,
    Envoy,
    Caddy,
}

impl Proxy {
    pub(super) const ALL: [Self; 6] = [
        Self::Floor,
        Self::Enforcer,
        Self::Nginx,
        Self::Haproxy,
        Self::Envoy,
        Self::Caddy,
    ];

    /// Those named; all if none is.
    pub(super) fn chosen(names: &[String]) -> Result<Vec<Self>> {
        for name in names {
            if !Self::ALL.iter().any(|proxy| proxy.key() == name) {
                let keys = Self::ALL.map(Self::key).join(", ");
                bail!("there is no proxy `{name}`: the proxies are {keys}");
            }
        }
        let chosen = |proxy: &Self| names.is_empty() || names.iter().any(|name| name == proxy.key());
        Ok(Self::ALL.into_iter().filter(chosen).collect())
    }

    pub(super) const fn key(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Enforcer => "enforcer",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Caddy => "caddy",
        }
    }

    /// What tables call it, with what it does.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Floor => "bare forwarder: mTLS",
            Self::Enforcer => "Enforcer: mTLS, JWT, limit, metrics",
            Self::Nginx => "nginx: mTLS, limit",
            Self::Haproxy => "HAProxy: mTLS, JWT, limit",
            Self::Envoy => "Envoy: mTLS, JWT, limit",
            Self::Caddy => "Caddy: mTLS",
        }
    }

    pub(super) const fn reads_tokens(self) -> bool {
        matches!(self, Self::Enforcer | Self::Haproxy | Self::Envoy)
    }

    const fn port(self) -> u16 {
        9440 + self as u16
    }

    /// Its program, arguments and environment; ours is started by [`Agent`].
    fn command(self, ground: &Ground) -> Result<Command> {
        let file = |name: &str| ground.workspace.path().join(name);
        let write = |name: &str, text: String| -> Result<PathBuf> {
            std::fs::write(file(name), text)?;
            Ok(file(name))
        };
        let mut command = ground.namespace.command("taskset")?;
        command.args(["--cpu-list", &PROXY_PROCESSOR.to_string()]);
        let peer = |path: &str| ground.peers.join(path);
        let listen = loopback(self.port());
        match self {
            Self::Enforcer => bail!("the agent has a way of its own"),
            Self::Floor => {
                command.arg(std::env::current_exe()?);
                command.args(["forward", "--listen", &listen.to_string()]);
                command.args(["--origin", &ORIGIN.to_string(), "--folder"]);
                command.arg(ground.workspace.path());
            }
            Self::Nginx => {
                let config = write(
                    "nginx.conf",
                    configs::nginx(listen, ORIGIN, ground.workspace.path()),
                )?;
                command.arg(peer("unpacked/usr/sbin/nginx")).arg("-c").arg(config);
                command.arg("-p").arg(ground.workspace.path());
            }
            Self::Haproxy => {
                let config = write("haproxy.cfg", configs::haproxy(listen, ORIGIN))?;
                command.env(
                    "LD_LIBRARY_PATH",
                    peer(&format!("unpacked/usr/lib/{}-linux-gnu", std::env::consts::ARCH)),
                );
                command
                    .arg(peer("unpacked/usr/sbin/haproxy"))
                    .arg("-f")
                    .arg(config);
            }
            Self::Envoy => {
                let config = write("envoy.yaml", configs::envoy(listen, ORIGIN, &ground.workspace))?;
                command.arg(peer("python/bin/envoy")).arg("-c").arg(config);
                command.args([
                    "--concurrency",
                    "1",
                    "--disable-hot-restart",
                    "--log-level",
                    "warn",
                ]);
            }
            Self::Caddy => {
                let config = write("Caddyfile", configs::caddy(listen, ORIGIN))?;
                command.env("GOMAXPROCS", "1");
                command
                    .arg(peer("python/bin/caddy"))
                    .args(["run", "--adapter", "caddyfile", "--config"]);
                command.arg(config);
            }
        }
        command.current_dir(ground.workspace.path());
        Ok(command)
    }
}

/// What keeps a proxy running. Dropping it ends it.
enum Running {
    Agent(Agent),
    Peer(Peer),
}

struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        // Whoever is killed leaves its workers behind. All may have ended by themselves, which has been told by then.
        let family = Process(self.0.id()).family();
        let _ = sys::send_signal(self.0.id(), libc::SIGTERM);
        let deadline = Instant::now() + TO_END;
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
        for process in family {
            let _ = sys::send_signal(process, libc::SIGKILL);
        }
        let _ = self.0.wait();
        cleanup::forget_process(self.0.id());
    }
}

/// A proxy that runs.
pub(super) struct Standing {
    pub(super) proxy: Proxy,
    pub(super) process: Process,
    _running: Running,
    version: String,
}

/// What a proxy has in memory.
#[derive(Debug, Serialize)]
pub(super) struct Memory {
    pub(super) proxy: &'static str,
    /// At [`FEW`] connections after a first load of small requests over as many, in bytes.
    pub(super) few: u64,
    /// The same after all rounds, with their large bodies, handshakes and tokens.
    pub(super) few_at_end: u64,
    /// At many idle ones, in bytes, and how many those are. At the end, too.
    pub(super) many: Option<(usize, u64)>,
}

impl Standing {
    /// Starts a proxy and waits until it passes a request on.
    pub(super) fn start(proxy: Proxy, ground: &Ground) -> Result<Self> {
        let running = match proxy {
            Proxy::Enforcer => Running::Agent(start_agent(ground)?),
            _ => Running::Peer(start_peer(proxy, ground)?),
        };
        let process = Process(match &running {
            Running::Agent(agent) => agent.pid(),
            Running::Peer(peer) => peer.0.id(),
        });
        let version = version(proxy, ground);
        let mut standing = Self {
            proxy,
            process,
            _running: running,
            version,
        };
        standing.wait_until_ready(ground)?;
        Ok(standing)
    }

    pub(super) fn address(&self) -> SocketAddr {
        loopback(self.proxy.port())
    }

    pub(super) fn measure(&self, case: Case, ground: &Ground) -> Result<Sample> {
        work::measure(case, self, ground)
    }

    /// The proxy and which version of it.
    pub(super) fn version(&self) -> (&'static str, String) {
        (self.proxy.key(), self.version.clone())
    }

    /// What it has in memory at few connections, in bytes.
    pub(super) fn memory_at_few(&self, ground: &Ground) -> Result<u64> {
        self.memory_at(FEW, ground)
    }

    /// What it has in memory in the end, at few connections and at `idle`, each of which has served a request; `few` is
    /// what it had in the beginning.
    pub(super) fn memory(&self, few: u64, idle: usize, ground: &Ground) -> Result<Memory> {
        let few_at_end = self.memory_at_few(ground)?;
        let many = if idle == 0 {
            None
        } else {
            Some((idle, self.memory_at(idle, ground)?))
        };
        Ok(Memory {
            proxy: self.proxy.key(),
            few,
            few_at_end,
            many,
        })
    }

    fn memory_at(&self, connections: usize, ground: &Ground) -> Result<u64> {
        let client = ground.client(self.address(), Protocol::Http1)?;
        let ask = Ask::get("/small").with_token(&ground.token()?)?;
        let process = self.process;
        ground.load.wait(async move {
            let _open = crowd::gather(&client, &ask, connections).await?;
            process.memory()
        })?
    }

    fn wait_until_ready(&mut self, ground: &Ground) -> Result<()> {
        let client = ground.client(self.address(), Protocol::Http1)?;
        let ask = Ask::get("/small").with_token(&ground.token()?)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (client, ask) = (client.clone(), ask.clone());
            let opened = ground
                .load
                .wait(async move { work::open(&client, &ask).await.map(drop) })?;
            let Err(error) = opened else { return Ok(()) };
            let log = ground.workspace.path().join(format!("{}.log", self.proxy.key()));
            let log = std::fs::read_to_string(log).unwrap_or_default();
            if let Running::Peer(Peer(child)) = &mut self._running
                && let Some(status) = child.try_wait()?
            {
                bail!("{} ended ({status}):\n{log}", self.proxy.title());
            }
            if Instant::now() > deadline {
                return Err(error).with_context(|| format!("{} is not ready:\n{log}", self.proxy.title()));
            }
            std::thread::sleep(POLL);
        }
    }
}

fn start_peer(proxy: Proxy, ground: &Ground) -> Result<Peer> {
    let log = File::create(ground.workspace.path().join(format!("{}.log", proxy.key())))?;
    let mut command = proxy.command(ground)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(Peer(cleanup::spawn(&mut command)?))
}

fn start_agent(ground: &Ground) -> Result<Agent> {
    let listen = loopback(Proxy::Enforcer.port());
    ground.workspace.write_config(&configs::enforcer(listen))?;
    ground
        .workspace
        .write_policy("gateway.yaml", &configs::enforcer_policy(ORIGIN))?;
    let agent = Agent::start(&ground.namespace, &agent::binary()?, &ground.workspace)?;
    // All threads that there are; later ones inherit it.
    let pinned = Command::new("taskset")
        .args(["--all-tasks", "--cpu-list", "--pid", &PROXY_PROCESSOR.to_string()])
        .arg(agent.pid().to_string())
        .stdout(Stdio::null())
        .status()
        .context("`taskset` did not start: it is in Debian's package `util-linux`")?;
    if !pinned.success() {
        bail!("taskset could not move the agent to processor {PROXY_PROCESSOR}");
    }
    Ok(agent)
}

/// What it says of itself, on one line.
fn version(proxy: Proxy, ground: &Ground) -> String {
    let (program, argument) = match proxy {
        Proxy::Floor | Proxy::Enforcer => return env!("CARGO_PKG_VERSION").to_owned(),
        Proxy::Nginx => ("unpacked/usr/sbin/nginx", "-v"),
        Proxy::Haproxy => ("unpacked/usr/sbin/haproxy", "-v"),
        Proxy::Envoy => ("python/bin/envoy", "--version"),
        Proxy::Caddy => ("python/bin/caddy", "version"),
    };
    let libraries = ground
        .peers
        .join(format!("unpacked/usr/lib/{}-linux-gnu", std::env::consts::ARCH));
    let output = Command::new(ground.peers.join(program))
        .arg(argument)
        .env("LD_LIBRARY_PATH", libraries)
        .output();
    let said = output
        .map(|output| [output.stdout, output.stderr].concat())
        .unwrap_or_default();
    let said = String::from_utf8_lossy(&said).into_owned();
    said.lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("unknown")
        .trim()
        .to_owned()
}
