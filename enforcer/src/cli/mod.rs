//! The command line. Exit codes: 0 done, 1 failed, 2 usage or invalid configuration.

mod api_key;
mod check;
mod client;
mod deny;
mod detach;
mod events;
mod explain;
mod left;
mod replay;
mod revoke;
mod revoke_proof;
mod run;
mod schema;
mod status;
mod text;

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use clap::{Parser, Subcommand, ValueEnum};

/// eBPF-accelerated traffic enforcer: packet limits in the kernel, an API gateway in userspace.
#[derive(Debug, Parser)]
#[command(name = "enforcer", version, about, propagate_version = true)]
#[command(after_help = "Examples:
  enforcer check /etc/enforcer                     validate configuration and policies
  enforcer run --config /etc/enforcer/enforcer.yaml
  enforcer status
  enforcer explain 192.0.2.7:443                   why is this source (not) limited?
  enforcer events --follow                         what is being dropped?
  enforcer deny 192.0.2.7 --for 10m --reason \"scraper, ticket 4711\"
  enforcer revoke 192.0.2.7 --for 10m --reason \"ticket 4711\"   ends its connections too
  enforcer replay edge.pcap --policy candidate.yaml   what would this policy have done?

Exit codes: 0 done, 1 failed, 2 usage or invalid configuration.")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Check(check::Check),
    Status(status::Status),
    Explain(explain::Explain),
    Deny(deny::Deny),
    Allow(deny::Allow),
    Revoke(Box<revoke::Revoke>),
    ApiKey(api_key::ApiKey),
    Detach(detach::Detach),
    Events(events::Events),
    Replay(replay::Replay),
    Schema(schema::Schema),
}

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For scripts.
    Json,
}

/// What a command came to, short of success.
#[derive(Debug)]
pub enum Failure {
    /// Exit code 1, with what to say.
    Failed(anyhow::Error),
    /// Exit code 2, with what to say.
    Invalid(anyhow::Error),
    /// Exit code 2; all is said already.
    Reported,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl Cli {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let result = match self.command {
            Command::Run(command) => command.run(),
            Command::Check(command) => command.run(),
            Command::Status(command) => command.run(),
            Command::Explain(command) => command.run(),
            Command::Deny(command) => command.run(),
            Command::Allow(command) => command.run(),
            Command::Revoke(command) => command.run(),
            Command::ApiKey(command) => command.run(),
            Command::Detach(command) => command.run(),
            Command::Events(command) => command.run(),
            Command::Replay(command) => command.run(),
            Command::Schema(command) => command.run(),
        };
        let (code, error) = match result {
            Ok(()) => return ExitCode::SUCCESS,
            // Whoever reads our output has seen enough.
            Err(Failure::Failed(error)) if is_closed_pipe(&error) => return ExitCode::SUCCESS,
            Err(Failure::Failed(error)) => (1, Some(error)),
            Err(Failure::Invalid(error)) => (2, Some(error)),
            Err(Failure::Reported) => (2, None),
        };
        if let Some(error) = error {
            eprintln!("enforcer: {}", text::with_causes(&error));
        }
        ExitCode::from(code)
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Whether colours may be used on standard output.
fn colors() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_command_is_sound() {
        Cli::command().debug_assert();
    }
}
