//! The agent under test, driven as an operator would: its command line, its files, its admin address.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use http::StatusCode;

use crate::{
    cleanup,
    client::{Answer, Ask, Client, Failure},
    metrics::Metrics,
    netns::Namespace,
    resident::Resident,
    sys,
    workspace::{CONFIG, Workspace},
};

/// The admin address that configurations of the lab give, on the node's loopback.
pub const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9600);

/// Names the agent's binary, if it is not beside the lab's own.
pub const BINARY_VARIABLE: &str = "ENFORCER_BIN";

/// How long it may take until it is ready, and until it has ended.
const PATIENCE: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(20);
const LOG: &str = "agent.log";
const LOG_TAIL_LINES: usize = 30;

/// A running agent. Dropping it kills it.
#[derive(Debug)]
pub struct Agent {
    binary: PathBuf,
    node: Namespace,
    child: Child,
    /// Ended and waited for.
    ended: bool,
    folder: PathBuf,
    admin: Resident,
}

/// How an agent is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// It drains and exits.
    Terminate,
    /// It has no say.
    Kill,
    /// It reads everything again.
    HangUp,
}

/// The agent's binary: [`BINARY_VARIABLE`], else beside the running one, else of the other profile.
///
/// # Errors
/// If there is none: the message says where it was looked for.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(BINARY_VARIABLE) {
        return Ok(path.into());
    }
    let running = std::env::current_exe().context("cannot tell where the lab's binary is")?;
    let candidates: Vec<PathBuf> = running
        .ancestors()
        .skip(1)
        .take(3)
        .flat_map(|folder| ["", "debug", "release"].map(|profile| folder.join(profile).join("enforcer")))
        .collect();
    candidates.iter().find(|path| path.is_file()).cloned().ok_or_else(|| {
        let places: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
        anyhow!(
            "the agent's binary is missing: run `cargo build -p enforcer`, or set {BINARY_VARIABLE}; looked for {}",
            places.join(", ")
        )
    })
}

impl Agent {
    /// Starts `binary` on the configuration of `workspace` and waits until it is ready.
    ///
    /// The agent ends with the calling thread, should that end first.
    ///
    /// # Errors
    /// If it ends or is not ready in time: the message has the end of its log.
    pub fn start(node: &Namespace, binary: &Path, workspace: &Workspace) -> Result<Self> {
        Self::start_as(node, binary, workspace, |_| {})
    }

    /// The same, with what `adjust` makes of the command: its environment, say, or where its log goes.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub fn start_as(
        node: &Namespace,
        binary: &Path,
        workspace: &Workspace,
        adjust: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        let log = File::create(workspace.path().join(LOG)).context("cannot write the agent's log")?;
        let mut command = node.command(binary)?;
        command
            .args(["run", "--config", CONFIG])
            .current_dir(workspace.path())
            .stdin(std::process::Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        adjust(&mut command);
        let admin = Resident::start(node, "admin-client")?;
        let mut agent = Self {
            child: cleanup::spawn(&mut command)?,
            binary: binary.to_owned(),
            node: node.clone(),
            ended: false,
            folder: workspace.path().to_owned(),
            admin,
        };
        agent.wait_until_ready()?;
        Ok(agent)
    }

    /// Asks the admin address.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn get(&self, path: &str) -> Result<Answer> {
        self.ask(Ask::get(path))?
            .with_context(|| format!("the agent does not answer {path}"))
    }

    /// Reads its metrics.
    ///
    /// # Errors
    /// If there is no answer or it is not in the text format.
    pub fn metrics(&self) -> Result<Metrics> {
        let answer = self.get("/metrics")?;
        if answer.status != StatusCode::OK {
            bail!("/metrics answers {}", answer.status);
        }
        Metrics::parse(std::str::from_utf8(&answer.body)?)
    }

    /// Waits until the metrics are as wanted; gives those that were.
    ///
    /// # Errors
    /// If they are not in time; `what` says what was waited for.
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&Metrics) -> bool) -> Result<Metrics> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let metrics = self.metrics()?;
            if wanted(&metrics) {
                return Ok(metrics);
            }
            if Instant::now() > deadline {
                bail!("{what}: not within {PATIENCE:?}\n{}", self.log_tail());
            }
            std::thread::sleep(POLL);
        }
    }

    /// Runs another command of the agent's binary, as `status`, in the node's namespace and the
    /// agent's folder.
    ///
    /// # Errors
    /// If it cannot start.
    pub fn command(&self, arguments: &[&str]) -> Result<Output> {
        self.node
            .command(&self.binary)?
            .args(arguments)
            // As configurations of the lab give it.
            .env("ENFORCER_RUNTIME_DIR", "run")
            .current_dir(&self.folder)
            .output()
            .with_context(|| format!("{} did not start", self.binary.display()))
    }

    /// Asks it to end and waits until it has.
    ///
    /// # Errors
    /// If it has not ended in time.
    pub fn stop(mut self, signal: Signal) -> Result<ExitStatus> {
        self.signal(signal)?;
        self.wait_until_ended()
    }

    /// Signals it and does not wait: see [`Self::wait_until_ended`].
    ///
    /// # Errors
    /// If it has ended already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let number = match signal {
            Signal::Terminate => libc::SIGTERM,
            Signal::Kill => libc::SIGKILL,
            Signal::HangUp => libc::SIGHUP,
        };
        sys::send_signal(self.pid(), number).context("cannot signal the agent")
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// If it has not in time.
    pub fn wait_until_ended(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.note_end();
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("the agent has not ended after {PATIENCE:?}; {}", self.log_tail());
            }
            std::thread::sleep(POLL);
        }
    }

    /// The binary that it runs.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join(LOG)).unwrap_or_default()
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let path = self.folder.join(LOG);
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
        format!("the end of {}:\n  {}", path.display(), tail.join("\n  "))
    }

    /// Sends any request to the admin address.
    ///
    /// # Errors
    /// If the thread that asks has ended. The inner one is the request's own.
    pub fn ask(&self, ask: Ask) -> Result<Result<Answer, Failure>> {
        self.admin
            .wait(async move { Client::plain(ADMIN).once(&ask).await })
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.note_end();
                bail!(
                    "the agent ended before it was ready ({status}); {}",
                    self.log_tail()
                );
            }
            let last = match self.ask(Ask::get("/readyz"))? {
                Ok(answer) if answer.status == StatusCode::OK => return Ok(()),
                Ok(answer) => format!("/readyz answers {}", answer.status),
                Err(failure) => failure.to_string(),
            };
            if Instant::now() > deadline {
                bail!(
                    "the agent is not ready after {PATIENCE:?}: {last}; {}",
                    self.log_tail()
                );
            }
            std::thread::sleep(POLL);
        }
    }

    fn note_end(&mut self) {
        self.ended = true;
        cleanup::forget_process(self.child.id());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // First its way, so that it takes its pins with it; then by force.
        let ended = self
            .signal(Signal::Terminate)
            .and_then(|()| self.wait_until_ended());
        if ended.is_err() {
            // It may have ended in between.
            let _ = self.child.kill();
            let _ = self.child.wait();
            self.note_end();
        }
    }
}
