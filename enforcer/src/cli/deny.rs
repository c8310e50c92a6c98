//! `enforcer deny` and `enforcer allow`

use std::{net::IpAddr, time::Duration};

use clap::Args;
use http::Method;
use ipnet::IpNet;

use super::{Failure, client::Client};
use crate::{
    admin::wire::{AllowRequest, DenyRequest},
    policy::leaf::quantity::parse_duration,
};

/// Deny a source in the kernel for a while
///
/// The denial ends by itself. Prefixes on the management list are refused.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  enforcer deny 192.0.2.7 --for 10m --reason \"scraper, ticket 4711\"
  enforcer deny 2001:db8:7::/48 --for 1h --reason botnet
  enforcer allow 192.0.2.7                         ends it early")]
pub struct Deny {
    /// An address or a prefix
    #[arg(value_name = "ADDRESS", value_parser = parse_prefix)]
    prefix: IpNet,
    /// For how long, as 90s, 10m, 1h
    #[arg(long = "for", value_name = "TIME", value_parser = parse_time)]
    lasts: Duration,
    /// Why, for those who ask later
    #[arg(long, value_name = "TEXT")]
    reason: String,
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
        let for_seconds = self.lasts.as_secs().max(1);
        let request = DenyRequest {
            prefix: self.prefix,
            reason: self.reason,
            for_seconds,
        };
        self.client.change(Method::POST, "/v1/denials", &request)?;
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
        )?;
        println!("{} is no longer denied", self.prefix);
        Ok(())
    }
}

fn parse_prefix(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address.to_canonical()));
    }
    text.parse::<IpNet>().map(|prefix| prefix.trunc()).map_err(|_| {
        "write an address, as 192.0.2.7, or a prefix, as 192.0.2.0/24 or 2001:db8::/32".to_owned()
    })
}

fn parse_time(text: &str) -> Result<Duration, String> {
    parse_duration(text)
}
