//! `enforcer revoke token`, `subject`, `client`, `api-key`, `certificate` and `list`

use std::{
    io::{self, Write as _},
    time::Duration,
};

use clap::{Args, Subcommand};
use http::Method;

use super::{
    Failure, Output,
    client::Client,
    revoke::{order, parse_time},
    text::printable,
};
use crate::admin::{
    revocations::{RestoreRequest, RevocationStatus},
    wire::{CertificateName, Revokee},
};

/// What is revoked.
#[derive(Debug, Subcommand)]
pub(super) enum Proof {
    /// Revoke one token, by its `jti`
    Token {
        /// Its `jti`
        #[arg(value_name = "JTI")]
        jti: String,
        /// The policy's name of its issuer
        #[arg(long, value_name = "NAME")]
        issuer: String,
        #[command(flatten)]
        order: Order,
    },
    /// Revoke all tokens of a subject
    Subject {
        /// Their `sub`
        #[arg(value_name = "SUB")]
        sub: String,
        /// The policy's name of their issuer
        #[arg(long, value_name = "NAME")]
        issuer: String,
        #[command(flatten)]
        order: Order,
    },
    /// Revoke all tokens of a client
    Client {
        /// Their `client_id`
        #[arg(value_name = "CLIENT_ID")]
        client_id: String,
        /// The policy's name of their issuer
        #[arg(long, value_name = "NAME")]
        issuer: String,
        #[command(flatten)]
        order: Order,
    },
    /// Revoke an API key
    ApiKey {
        /// Its id
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        order: Order,
    },
    /// Revoke a client certificate, by its fingerprint, or by its serial number and issuer
    Certificate {
        /// SHA-256 of its DER, as `openssl x509 -noout -fingerprint -sha256` prints it
        #[arg(value_name = "SHA256", required_unless_present = "serial", conflicts_with_all = ["serial", "issuer"])]
        sha256: Option<String>,
        /// Its serial number, in hexadecimal
        #[arg(long, value_name = "HEX", requires = "issuer")]
        serial: Option<String>,
        /// Its issuer's name, as CN=authority,O=Example, in the certificate's order
        #[arg(long, value_name = "NAME", requires = "serial")]
        issuer: Option<String>,
        #[command(flatten)]
        order: Order,
    },
    /// Show what is revoked
    List(List),
}

/// For how long, why, and where.
#[derive(Debug, Args)]
pub(super) struct Order {
    /// For how long, as 90s, 10m, 1h, 90d; at least 1s. As long as the proof would hold is enough
    #[arg(long = "for", value_name = "TIME", value_parser = parse_time, required_unless_present = "undo")]
    lasts: Option<Duration>,
    /// Why, for those who ask later
    #[arg(long, value_name = "TEXT", required_unless_present = "undo")]
    reason: Option<String>,
    /// End the revocation early instead
    #[arg(long, conflicts_with_all = ["lasts", "reason"])]
    undo: bool,
    /// Yes, also an API key that no document has
    #[arg(long)]
    yes: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    client: Client,
}

/// `enforcer revoke list`
#[derive(Debug, Args)]
pub(super) struct List {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    client: Client,
}

impl Proof {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (whom, order) = match self {
            Self::Token { jti, issuer, order } => (Revokee::Token { issuer, jti }, order),
            Self::Subject { sub, issuer, order } => (Revokee::Subject { issuer, sub }, order),
            Self::Client {
                client_id,
                issuer,
                order,
            } => (Revokee::Client { issuer, client_id }, order),
            Self::ApiKey { id, order } => (Revokee::ApiKey(id), order),
            Self::Certificate {
                sha256,
                serial,
                issuer,
                order,
            } => {
                let name = CertificateName {
                    sha256,
                    serial,
                    issuer,
                };
                (Revokee::Certificate(name), order)
            }
            Self::List(list) => return list.run(),
        };
        order.run(whom)
    }
}

impl Order {
    fn run(self, whom: Revokee) -> Result<(), Failure> {
        let (Some(lasts), Some(reason)) = (self.lasts, self.reason) else {
            // Without `--undo`, clap asks for both.
            let request = RestoreRequest { whom };
            self.client.change(Method::DELETE, "/v1/revocations", &request)?;
            println!("the revocation has ended");
            return Ok(());
        };
        order(&self.client, whom, reason, lasts, self.yes, self.output)
    }
}

impl List {
    fn run(self) -> Result<(), Failure> {
        let found: Vec<RevocationStatus> = self.client.get("/v1/revocations")?;
        let mut out = io::stdout().lock();
        match self.output {
            Output::Json => {
                let text = serde_json::to_string_pretty(&found).map_err(anyhow::Error::from)?;
                writeln!(out, "{text}")?;
            }
            Output::Text => {
                for entry in &found {
                    let what = match entry.whom.credential() {
                        Ok(Some(what)) => what.to_string(),
                        // Of an agent of another version.
                        Ok(None) | Err(_) => format!("{:?}", entry.whom),
                    };
                    writeln!(
                        out,
                        "{}, {}, by {}: {}",
                        printable(&what),
                        entry
                            .until
                            .as_ref()
                            .map_or("for ever".to_owned(), |until| format!("until {until}")),
                        printable(&entry.source),
                        printable(entry.reason.as_deref().unwrap_or("no reason given")),
                    )?;
                }
                if found.is_empty() {
                    writeln!(out, "no proof is revoked")?;
                }
            }
        }
        Ok(())
    }
}
