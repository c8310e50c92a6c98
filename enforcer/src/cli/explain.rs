//! `enforcer explain`

use std::{
    io::{self, Write},
    net::{IpAddr, SocketAddr},
};

use clap::Args;

use super::{
    Failure, Output,
    client::Client,
    events::sentence,
    text::{printable, table},
};
use crate::agent::explain::{Explanation, LimitView};

/// Explain why a source is (not) limited: denial, identity, policy line, limiter state
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  enforcer explain 192.0.2.7
  enforcer explain 192.0.2.7 --port 443 only policies about port 443 of this node
  enforcer explain [2001:db8::7]:443 --output json")]
pub struct Explain {
    /// The source's address. With a port behind it: the local port, as `--port`
    #[arg(value_name = "ADDRESS[:PORT]", value_parser = parse)]
    source: Source,
    /// The local port that it is limited at
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    #[command(flatten)]
    client: Client,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug)]
struct Source {
    address: IpAddr,
    port: Option<u16>,
}

fn parse(text: &str) -> Result<Source, String> {
    if let Ok(address) = text.parse() {
        return Ok(Source { address, port: None });
    }
    match text.parse::<SocketAddr>() {
        Ok(source) => Ok(Source { address: source.ip(), port: Some(source.port()) }),
        Err(_) => Err("write an address, as 192.0.2.7 or 2001:db8::7, and a port, as 192.0.2.7:443 or [2001:db8::7]:443".to_owned()),
    }
}

impl Explain {
    pub(super) fn run(self) -> Result<(), Failure> {
        let port = match (self.source.port, self.port) {
            (Some(one), Some(other)) if one != other => {
                return Err(Failure::Invalid(anyhow::anyhow!(
                    "the address names port {one}, and --port {other}: name one"
                )));
            }
            (one, other) => other.or(one),
        };
        let port = port.map(|port| format!("&port={port}")).unwrap_or_default();
        let path = format!("/v1/explain?address={}{port}", self.source.address);
        let explanation: Explanation = self.client.get(&path)?;
        let mut out = io::BufWriter::new(io::stdout().lock());
        match self.output {
            Output::Json => {
                writeln!(
                    out,
                    "{}",
                    serde_json::to_string_pretty(&explanation).map_err(anyhow::Error::from)?
                )?;
            }
            Output::Text => print(&mut out, &explanation)?,
        }
        out.flush()?;
        Ok(())
    }
}

fn print(out: &mut impl Write, explanation: &Explanation) -> io::Result<()> {
    let verdict = printable(&explanation.verdict);
    writeln!(out, "{}: {verdict}", explanation.address)?;
    for identity in &explanation.verified {
        writeln!(out, "  verified here: {}", printable(identity))?;
    }
    if let Some(seconds) = explanation.verified_seconds_ago {
        writeln!(out, "  recently verified: {seconds} s ago")?;
    }
    for connection in &explanation.revoked {
        writeln!(out, "  revoked: {}", printable(connection))?;
    }
    for line in &explanation.destination {
        writeln!(out, "  as a destination: {}", printable(line))?;
    }
    for view in &explanation.policies {
        let ports = if view.ports.is_empty() {
            "all traffic".to_owned()
        } else {
            view.ports.join(", ")
        };
        writeln!(
            out,
            "\npolicy {} ({}), {ports}, {}",
            view.policy, view.origin, view.mode
        )?;
        if let Some(listed) = &view.listed {
            writeln!(out, "  {}", printable(listed))?;
        }
        let mut rows = vec![
            ["limit", "per", "rate", "now", "left", "again in"]
                .map(str::to_owned)
                .to_vec(),
        ];
        rows.extend(view.limits.iter().flat_map(limit_rows));
        if rows.len() > 1 {
            table(out, &rows)?;
        }
    }
    if let Some(event) = &explanation.last_event {
        writeln!(out, "\nlast event: {}", sentence(event, false))?;
    }
    Ok(())
}

/// A limit, and below it each identity that is connected.
fn limit_rows(limit: &LimitView) -> Vec<Vec<String>> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let wait = |ms: Option<u64>| or_dash(ms.map(|ms| format!("{ms} ms")));
    let own = vec![
        limit.limit.clone(),
        limit.prefix.clone().unwrap_or_else(|| limit.per.clone()),
        format!("{:.0}/s", limit.rate_per_second),
        or_dash(limit.adapted_per_second.map(|rate| format!("{rate:.0}/s"))),
        or_dash(limit.remaining.map(|remaining| remaining.to_string())),
        wait(limit.retry_after_ms),
    ];
    let identities = limit.identities.iter().map(|each| {
        vec![
            String::new(),
            printable(&each.identity),
            String::new(),
            String::new(),
            each.remaining.to_string(),
            wait(each.retry_after_ms),
        ]
    });
    std::iter::once(own).chain(identities).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_does_not_steer_the_terminal() {
        let explanation = Explanation {
            address: IpAddr::from([192, 0, 2, 7]),
            verdict: "dropped: operator-deny (\x1b[2Jit's\n), for another 9 s".to_owned(),
            management: None,
            denied: None,
            verified: Vec::new(),
            verified_seconds_ago: None,
            revoked: Vec::new(),
            destination: Vec::new(),
            policies: Vec::new(),
            last_event: None,
        };
        let mut out = Vec::new();
        print(&mut out, &explanation).unwrap();
        let said = String::from_utf8(out).unwrap();
        assert_eq!(
            said,
            "192.0.2.7: dropped: operator-deny (\\u{1b}[2Jit's\\n), for another 9 s\n"
        );
    }
}
