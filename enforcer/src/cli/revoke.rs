//! `enforcer revoke`

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    time::Duration,
};

use anyhow::anyhow;
use clap::Args;
use http::Method;

use super::{
    Failure, Output,
    client::Client,
    deny::{is_vast, parse_prefix},
    revoke_proof::Proof,
    text::printable,
};
use crate::admin::wire::{RevokeRequest, RevokedStatus, Revokee};
use enforcer_model::leaf::quantity::parse_duration;

/// End live connections, and drop what still comes of them for a while; or revoke a proof
///
/// A proof that is revoked by one of the subcommands is refused from the next request on, and connections that rest on
/// it end, until the time is over.
///
/// The gateway's own connections are closed by a reset. Sockets of other processes in the agent's network
/// namespace that are connected to ADDRESS are destroyed. An address or a prefix without a port is also denied
/// for the time, as by `enforcer deny --action reset`; of one PORT, or of an identity, the connections that there
/// are now are dropped, and new ones are not. The management list cannot be revoked.
#[derive(Debug, Args)]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
#[command(after_help = "Examples:
  enforcer revoke api-key partner-a --for 90d --reason \"found in a repository\"
  enforcer revoke token 7f3a --issuer corp --for 1h --reason \"ticket 4711\"
  enforcer revoke list
  enforcer revoke 192.0.2.7 --for 10m --reason \"ticket 4711\"
  enforcer revoke 192.0.2.7:50312 --for 1m --reason \"stuck upload\"
  enforcer revoke '[2001:db8::7]:50312' --for 1m --reason \"stuck upload\"
  enforcer revoke --identity 'certificate spiffe://example.com/ns/shop/sa/web' --for 10m --reason \"stolen key\"
  enforcer revoke --identity 'token 4711 of corp' --for 10m --reason logout --output json")]
pub struct Revoke {
    #[command(subcommand)]
    proof: Option<Proof>,
    /// An address, a prefix, or an address and a port
    #[arg(
        value_name = "ADDRESS[:PORT]",
        value_parser = parse_revokee,
        required_unless_present = "identity",
        conflicts_with = "identity"
    )]
    address: Option<Revokee>,
    /// Who has proved to be behind a connection of the gateway, as `enforcer explain` shows it
    #[arg(long, value_name = "IDENTITY")]
    identity: Option<String>,
    /// How long what still comes is dropped, as 90s, 10m, 1h; at least 1s
    #[arg(long = "for", value_name = "TIME", value_parser = parse_time, required = true)]
    lasts: Option<Duration>,
    /// Why, for those who ask later
    #[arg(long, value_name = "TEXT", required = true)]
    reason: Option<String>,
    /// Yes, a prefix shorter than /8 (IPv4) or /16 (IPv6)
    #[arg(long)]
    yes: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    client: Client,
}

impl Revoke {
    pub(super) fn run(self) -> Result<(), Failure> {
        if let Some(proof) = self.proof {
            return proof.run();
        }
        let (Some(lasts), Some(reason)) = (self.lasts, self.reason) else {
            return Err(Failure::Invalid(anyhow!("say --for how long, and the --reason")));
        };
        let whom = match (self.address, self.identity) {
            (Some(address), _) => address,
            (None, Some(identity)) => Revokee::Identity(identity),
            (None, None) => return Err(Failure::Invalid(anyhow!("name an address or an --identity"))),
        };
        if let Revokee::Prefix(prefix) = whom
            && is_vast(prefix)
            && !self.yes
        {
            return Err(Failure::Invalid(anyhow!(
                "{prefix} is a large part of the internet: name the networks that you mean, or add --yes"
            )));
        }
        order(&self.client, whom, reason, lasts, false, self.output)
    }
}

/// Has the agent revoke, and prints what has come of it.
pub(super) fn order(
    client: &Client,
    whom: Revokee,
    reason: String,
    lasts: Duration,
    yes: bool,
    output: Output,
) -> Result<(), Failure> {
    let for_seconds = lasts.as_secs();
    let request = RevokeRequest {
        whom,
        reason,
        for_seconds,
        unknown: yes,
    };
    let revoked: RevokedStatus = client.ask(Method::POST, "/v1/revocations", &request)?;
    let mut out = io::stdout().lock();
    match output {
        Output::Json => {
            let text = serde_json::to_string_pretty(&revoked).map_err(anyhow::Error::from)?;
            writeln!(out, "{text}")?;
        }
        Output::Text => print(&mut out, &revoked, for_seconds)?,
    }
    Ok(())
}

fn print(out: &mut impl io::Write, revoked: &RevokedStatus, for_seconds: u64) -> io::Result<()> {
    writeln!(
        out,
        "ended: {} connections of the gateway, {} other TCP sockets, {} other UDP sockets",
        revoked.gateway_connections, revoked.tcp_sockets, revoked.udp_sockets
    )?;
    if revoked.refused {
        writeln!(out, "requests with the proof are refused for {for_seconds} s")?;
    } else if revoked.denied {
        writeln!(out, "the source is denied for {for_seconds} s")?;
    } else {
        writeln!(
            out,
            "what still comes of {} of them is dropped for {for_seconds} s",
            revoked.dropped_connections
        )?;
    }
    for shortfall in &revoked.shortfalls {
        writeln!(out, "not done: {}", printable(shortfall))?;
    }
    Ok(())
}

fn parse_revokee(text: &str) -> Result<Revokee, String> {
    if let Ok(endpoint) = text.parse::<SocketAddr>() {
        if endpoint.port() == 0 {
            return Err("no connection comes from port 0".to_owned());
        }
        let address = endpoint.ip().to_canonical();
        return Ok(Revokee::Endpoint(SocketAddr::new(address, endpoint.port())));
    }
    parse_prefix(text)
        .map(Revokee::Prefix)
        .map_err(|error| format!("{error}; with a port, write 192.0.2.7:50312 or [2001:db8::7]:50312"))
}

pub(super) fn parse_time(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text)?;
    if time < Duration::from_secs(1) {
        return Err("a revocation lasts at least 1s".to_owned());
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_ports_or_not() {
        let endpoint = |text: &str| Ok(Revokee::Endpoint(text.parse().unwrap()));
        let prefix = |text: &str| Ok(Revokee::Prefix(text.parse().unwrap()));
        assert_eq!(parse_revokee("192.0.2.7:443"), endpoint("192.0.2.7:443"));
        assert_eq!(parse_revokee("[2001:db8::7]:443"), endpoint("[2001:db8::7]:443"));
        assert_eq!(parse_revokee("[::ffff:192.0.2.7]:443"), endpoint("192.0.2.7:443"));
        assert_eq!(parse_revokee("2001:db8::7"), prefix("2001:db8::7/128"));
        assert_eq!(parse_revokee("192.0.2.0/24"), prefix("192.0.2.0/24"));
        for text in ["192.0.2.7:0", "192.0.2.7/24", "nobody", "192.0.2.7:99999"] {
            assert!(parse_revokee(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_was_not_done_is_said() {
        let mut out = Vec::new();
        let revoked = RevokedStatus {
            gateway_connections: 2,
            tcp_sockets: 1,
            shortfalls: vec!["a\nb".to_owned()],
            dropped_connections: 3,
            ..RevokedStatus::default()
        };
        print(&mut out, &revoked, 60).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "ended: 2 connections of the gateway, 1 other TCP sockets, 0 other UDP sockets\n\
             what still comes of 3 of them is dropped for 60 s\nnot done: a\\nb\n"
        );
    }
}
