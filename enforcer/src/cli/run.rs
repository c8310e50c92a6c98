//! `enforcer run`

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use tracing::Level;
use tracing_subscriber::{EnvFilter, filter::FromEnvError, fmt, reload::Handle};

use super::{Failure, text::with_causes};
use crate::{
    agent::{self, RunError},
    config::{Config, Log, LogFormat},
};
use enforcer_telemetry::logging::{self, Lines, Verbosity};

/// A log filter, which goes before `log.level`.
const VARIABLE: &str = "ENFORCER_LOG";

/// How long the end waits for the log to be written.
const LAST_LINES: Duration = Duration::from_millis(300);

/// Run the agent: attach to the interfaces of the policies, serve the gateway, keep policies in force
///
/// SIGTERM and SIGINT drain; the kernel programs stay in force for the next agent, if they are pinned
/// (`kernel.pins`, `kernel.onStop`; `enforcer detach` takes them away). SIGHUP reads the configuration file again, and policies
/// and certificates, whose changes are noticed without it too. What needs a restart is named in the log and by `enforcer status`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  enforcer run --config /etc/enforcer/enforcer.yaml
  ENFORCER_LOG=enforcer=debug enforcer run --config enforcer.yaml")]
pub struct Run {
    /// The agent's configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/enforcer/enforcer.yaml")]
    config: PathBuf,
}

impl Run {
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = Config::load(&self.config).map_err(|problems| Failure::Invalid(problems.into()))?;
        let (log, verbosity) = log(config.log)?;
        let result = agent::run(&config, self.config, verbosity).map_err(|error| match error {
            RunError::Policies(problems) => Failure::Invalid(problems.into()),
            error => Failure::Failed(error.into()),
        });
        // Whoever reads the log finds there what the command says in the end.
        if let Err(Failure::Invalid(error) | Failure::Failed(error)) = &result {
            tracing::error!(error = with_causes(error), "the agent ends");
        }
        log.stop(Instant::now() + LAST_LINES);
        result
    }
}

/// Logs go to standard error, one line each, by a thread of their own.
fn log(log: Log) -> Result<(logging::Log, Verbosity), Failure> {
    let filter =
        filter(log.level).context("ENFORCER_LOG is no log filter: write for example enforcer=debug")?;
    let (lines, thread) =
        Lines::start(std::io::stderr(), agent::drop_own_privileges).context("no thread for the log")?;
    lines.install();
    let builder = fmt().with_env_filter(filter).with_writer(lines);
    let (verbosity, result) = match log.format {
        LogFormat::Json => {
            let builder = builder
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_filter_reloading();
            (verbosity(builder.reload_handle()), builder.try_init())
        }
        LogFormat::Text => {
            let builder = builder
                .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
                .with_filter_reloading();
            (verbosity(builder.reload_handle()), builder.try_init())
        }
    };
    result.map_err(|error| Failure::Failed(anyhow::anyhow!("logging cannot be set up: {error}")))?;
    Ok((thread, verbosity))
}

/// What is logged at `level`. The environment goes first.
fn filter(level: Level) -> Result<EnvFilter, FromEnvError> {
    EnvFilter::builder()
        .with_default_directive(level.into())
        .with_env_var(VARIABLE)
        .from_env()
}

fn verbosity<S: 'static>(handle: Handle<EnvFilter, S>) -> Verbosity {
    Verbosity::new(move |level| {
        if std::env::var_os(VARIABLE).is_some_and(|value| !value.is_empty()) {
            tracing::info!("{VARIABLE} goes before `log.level`: what it names keeps its level");
        }
        let changed = filter(level).map(|filter| handle.reload(filter));
        if !matches!(changed, Ok(Ok(()))) {
            tracing::error!(%level, "the level of the log cannot be changed; restart the agent for it");
        }
    })
}
