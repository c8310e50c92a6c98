//! `enforcer deny` and `enforcer allow`

use std::{
    io::{self, Write as _},
    net::IpAddr,
    time::Duration,
};

use anyhow::anyhow;
use clap::{Args, Subcommand};
use http::Method;
use ipnet::IpNet;

use super::{Failure, Output, client::Client, text::printable};
use crate::admin::wire::{Action, AllowRequest, DenialStatus, DeniedStatus, DenyRequest};
use enforcer_model::{address::canonical_prefix, leaf::quantity::parse_duration};

/// Deny a source in the kernel for a while
///
/// The denial ends by itself. Management addresses inside a denied prefix still pass, and are named; a prefix that is
/// wholly on the management list is refused.
#[derive(Debug, Args)]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
#[command(after_help = "Examples:
  enforcer deny 192.0.2.7 --for 10m --reason \"scraper, ticket 4711\"
  enforcer deny 2001:db8:7::/48 --for 1h --reason botnet
  enforcer deny 10.4.0.0/16 --for 1h --reason moved --action reset   tells its senders
  enforcer deny list                               who is denied, by whom, and for how long
  enforcer allow 192.0.2.7                         ends it early")]
pub struct Deny {
    #[command(subcommand)]
    list: Option<Show>,
    /// An address or a prefix
    #[arg(value_name = "ADDRESS", value_parser = parse_prefix, required = true)]
    prefix: Option<IpNet>,
    /// For how long, as 90s, 10m, 1h; at least 1s
    #[arg(long = "for", value_name = "TIME", value_parser = parse_time, required = true)]
    lasts: Option<Duration>,
    /// Why, for those who ask later
    #[arg(long, value_name = "TEXT", required = true)]
    reason: Option<String>,
    /// What becomes of its packets
    #[arg(long, value_enum, default_value_t = Action::Drop)]
    action: Action,
    /// Yes, a prefix shorter than /8 (IPv4) or /16 (IPv6)
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    client: Client,
}

#[derive(Debug, Subcommand)]
enum Show {
    /// Show who is denied: by operators, and by failed authentication
    List(List),
}

#[derive(Debug, Args)]
struct List {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    client: Client,
}

/// End a denial early
#[derive(Debug, Args)]
#[command(after_help = "Example:
  enforcer allow 192.0.2.7")]
pub struct Allow {
    /// The address or prefix as it was denied
    #[arg(value_name = "ADDRESS", value_parser = parse_prefix)]
    prefix: IpNet,
    #[command(flatten)]
    client: Client,
}

impl Deny {
    pub(super) fn run(self) -> Result<(), Failure> {
        if let Some(Show::List(list)) = self.list {
            return list.run();
        }
        let (Some(prefix), Some(lasts), Some(reason)) = (self.prefix, self.lasts, self.reason) else {
            return Err(Failure::Invalid(anyhow!(
                "name an address, and say --for how long and the --reason"
            )));
        };
        if is_vast(prefix) && !self.yes {
            return Err(Failure::Invalid(anyhow!(
                "{prefix} is a large part of the internet: name the networks that you mean, or add --yes"
            )));
        }
        let for_seconds = lasts.as_secs();
        let request = DenyRequest {
            prefix,
            reason,
            for_seconds,
            action: self.action,
        };
        let answer = self.client.change(Method::POST, "/v1/denials", &request)?;
        println!("{prefix} is denied for {for_seconds} s");
        // An agent with nothing to add says nothing.
        let denied: DeniedStatus = serde_json::from_slice(&answer).unwrap_or_default();
        for management in denied.still_passes {
            println!("{management} inside it still passes: `kernel.management` protects it");
        }
        if let Some(why) = denied.unkept {
            println!("it would not outlive a reboot: {}", printable(&why));
        }
        Ok(())
    }
}

impl List {
    fn run(self) -> Result<(), Failure> {
        let found: Vec<DenialStatus> = self.client.get("/v1/denials")?;
        let mut out = io::stdout().lock();
        match self.output {
            Output::Json => {
                let text = serde_json::to_string_pretty(&found).map_err(anyhow::Error::from)?;
                writeln!(out, "{text}")?;
            }
            Output::Text => print(&mut out, &found)?,
        }
        Ok(())
    }
}

fn print(out: &mut impl io::Write, found: &[DenialStatus]) -> io::Result<()> {
    for denial in found {
        let action = match denial.action {
            Action::Drop => "dropped",
            Action::Reset => "reset",
        };
        writeln!(
            out,
            "{} {action} for another {} s, {}: {}",
            denial.prefix,
            denial.ends_in_seconds,
            printable(&denial.kind),
            printable(&denial.reason),
        )?;
    }
    if found.is_empty() {
        writeln!(
            out,
            "no source is denied; deny lists of policies are in their files"
        )?;
    }
    Ok(())
}

impl Allow {
    pub(super) fn run(self) -> Result<(), Failure> {
        self.client.change(
            Method::DELETE,
            "/v1/denials",
            &AllowRequest { prefix: self.prefix },
        )?;
        println!("{} is no longer denied", self.prefix);
        Ok(())
    }
}

pub(super) fn parse_prefix(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address.to_canonical()));
    }
    let prefix = text.parse::<IpNet>().map_err(|_| {
        "write an address, as 192.0.2.7, or a prefix, as 192.0.2.0/24 or 2001:db8::/32".to_owned()
    })?;
    let prefix = canonical_prefix(prefix);
    if prefix != prefix.trunc() {
        let (address, network) = (prefix.addr(), prefix.trunc());
        return Err(format!(
            "the address has bits beyond the prefix: write {network} for the network, or {address} for the address"
        ));
    }
    Ok(prefix)
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text)?;
    if time < Duration::from_secs(1) {
        return Err("a denial lasts at least 1s; `enforcer allow` ends one".to_owned());
    }
    Ok(time)
}

/// Whether a denial is more likely a slip than meant: nobody is given so much.
pub(super) fn is_vast(prefix: IpNet) -> bool {
    match prefix {
        IpNet::V4(prefix) => prefix.prefix_len() < 8,
        IpNet::V6(prefix) => prefix.prefix_len() < 16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_refused_with_the_right_network() {
        let said = parse_prefix("192.0.2.7/24").unwrap_err();
        assert!(said.contains("write 192.0.2.0/24"), "{said}");
        assert_eq!(parse_prefix("192.0.2.0/24").unwrap().to_string(), "192.0.2.0/24");
        assert_eq!(
            parse_prefix("2001:db8::7").unwrap().to_string(),
            "2001:db8::7/128"
        );
        // As a socket of both families has it.
        assert_eq!(
            parse_prefix("::ffff:192.0.2.0/120").unwrap().to_string(),
            "192.0.2.0/24"
        );
    }

    #[test]
    fn a_denial_lasts_at_least_a_second() {
        assert!(parse_time("0s").is_err());
        assert!(parse_time("999ms").is_err());
        assert_eq!(parse_time("1s"), Ok(Duration::from_secs(1)));
    }

    #[test]
    fn large_parts_of_the_internet_take_a_yes() {
        let vast = |text: &str| is_vast(text.parse().unwrap());
        assert!(vast("0.0.0.0/0") && vast("10.0.0.0/7") && vast("2000::/3") && vast("2000::/15"));
        assert!(!vast("10.0.0.0/8") && !vast("2001::/16"));
    }

    #[test]
    fn who_is_denied_is_listed() {
        let denial = |prefix: &str, action, reason: &str| DenialStatus {
            prefix: prefix.parse().unwrap(),
            kind: "denied-by-operator".to_owned(),
            reason: reason.to_owned(),
            action,
            ends_in_seconds: 60,
        };
        let mut out = Vec::new();
        let found = [
            denial("192.0.2.7/32", Action::Drop, "ticket\n4711"),
            denial("2001:db8::/32", Action::Reset, "moved"),
        ];
        print(&mut out, &found).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "192.0.2.7/32 dropped for another 60 s, denied-by-operator: ticket\\n4711\n\
             2001:db8::/32 reset for another 60 s, denied-by-operator: moved\n"
        );
    }
}
