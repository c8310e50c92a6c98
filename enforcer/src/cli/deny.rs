//! `enforcer deny` and `enforcer allow`

use std::{net::IpAddr, time::Duration};

use anyhow::anyhow;
use clap::Args;
use http::Method;
use ipnet::IpNet;

use super::{Failure, client::Client};
use crate::{
    admin::wire::{Action, AllowRequest, DenyRequest},
    kernel::canonical_prefix,
    policy::leaf::quantity::parse_duration,
};

/// Deny a source in the kernel for a while
///
/// The denial ends by itself. Prefixes on the management list are refused.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  enforcer deny 192.0.2.7 --for 10m --reason \"scraper, ticket 4711\"
  enforcer deny 2001:db8:7::/48 --for 1h --reason botnet
  enforcer deny 10.4.0.0/16 --for 1h --reason moved --action reset   tells its senders
  enforcer allow 192.0.2.7                         ends it early")]
pub struct Deny {
    /// An address or a prefix
    #[arg(value_name = "ADDRESS", value_parser = parse_prefix)]
    prefix: IpNet,
    /// For how long, as 90s, 10m, 1h; at least 1s
    #[arg(long = "for", value_name = "TIME", value_parser = parse_time)]
    lasts: Duration,
    /// Why, for those who ask later
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// What becomes of its packets
    #[arg(long, value_enum, default_value_t = Action::Drop)]
    action: Action,
    /// Yes, a prefix shorter than /8 (IPv4) or /16 (IPv6)
    #[arg(long)]
    yes: bool,
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
        if is_vast(self.prefix) && !self.yes {
            return Err(Failure::Invalid(anyhow!(
                "{} is a large part of the internet: name the networks that you mean, or add --yes",
                self.prefix
            )));
        }
        let for_seconds = self.lasts.as_secs();
        let request = DenyRequest {
            prefix: self.prefix,
            reason: self.reason,
            for_seconds,
            action: self.action,
        };
        self.client.change(Method::POST, "/v1/denials", &request, None)?;
        println!("{} is denied for {for_seconds} s", self.prefix);
        Ok(())
    }
}

impl Allow {
    pub(super) fn run(self) -> Result<(), Failure> {
        self.client.change(
            Method::DELETE,
            "/v1/denials",
            &AllowRequest { prefix: self.prefix },
            None,
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
}
