//! `enforcer events`

use std::{
    io::{self, Write},
    net::{IpAddr, SocketAddr},
};

use clap::Args;

use super::{
    Failure, Output,
    client::Client,
    colors,
    text::{Color, paint},
};
use crate::agent::events::{EventLine, EventView};

/// Show samples of packets that were dropped, or would have been but for shadow
///
/// The latest are kept by the agent. There are at most 1,000 a second on each CPU; `enforcer status` and
/// the metrics count all packets.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  enforcer events
  enforcer events --follow --source 192.0.2.7
  enforcer events --follow --output json | jq .event.reason")]
pub struct Events {
    /// Go on with those to come, until Ctrl-C
    #[arg(long)]
    follow: bool,
    /// Of this source alone
    #[arg(long, value_name = "ADDRESS")]
    source: Option<IpAddr>,
    #[command(flatten)]
    client: Client,
    /// How to print; JSON is one object a line
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Events {
    pub(super) fn run(self) -> Result<(), Failure> {
        let source = self.source.map(|source| format!("&source={source}"));
        let path = format!("/v1/events?follow={}{}", self.follow, source.unwrap_or_default());
        let color = colors();
        self.client.lines(&path, |line| {
            let mut out = io::stdout().lock();
            match self.output {
                Output::Json => {
                    out.write_all(line)?;
                    writeln!(out)?;
                }
                Output::Text => print(&mut out, &serde_json::from_slice(line)?, color)?,
            }
            out.flush()?;
            Ok(())
        })?;
        Ok(())
    }
}

fn print(out: &mut impl Write, line: &EventLine, color: bool) -> io::Result<()> {
    match line {
        EventLine::Lost(count) => {
            let text = format!("too slow: {count} events lost");
            writeln!(out, "{}", paint(&text, Color::Red, color))
        }
        EventLine::Event(event) => writeln!(out, "{}", sentence(event, color)),
    }
}

/// An event on one line.
pub(super) fn sentence(event: &EventView, color: bool) -> String {
    let verdict_color = if event.verdict == "shadow" {
        Color::Yellow
    } else {
        Color::Red
    };
    let verdict = paint(&event.verdict, verdict_color, color);
    let end = |address: Option<IpAddr>, port: Option<u16>| match (address, port) {
        (None, _) => "unreadable".to_owned(),
        (Some(address), None) => address.to_string(),
        (Some(address), Some(port)) => SocketAddr::new(address, port).to_string(),
    };
    let protocol = match event.protocol {
        Some(1 | 58) => "icmp".to_owned(),
        Some(6) => "tcp".to_owned(),
        Some(17) => "udp".to_owned(),
        Some(number) => format!("protocol {number}"),
        None => "-".to_owned(),
    };
    let because = match (&event.policy, &event.limit) {
        (None, _) => event.reason.clone(),
        (Some(policy), None) => format!("{} by policy {policy}", event.reason),
        (Some(policy), Some(limit)) => format!("over limit {limit} of policy {policy}"),
    };
    let skipped = match event.skipped {
        0 => String::new(),
        count => format!(" (and {count} more before)"),
    };
    format!(
        "{} {verdict} {} {protocol} {} -> {}, {} bytes: {because}{skipped}",
        event.time,
        event.interface,
        end(event.source, event.source_port),
        end(event.destination, event.destination_port),
        event.bytes,
    )
}
