//! `enforcer status`

use std::io::{self, Write};

use clap::Args;

use super::{
    Failure, Output,
    client::{Absent, Client},
    colors, left,
    text::{Color, paint, printable, table},
};
use crate::admin::wire;

/// Show how things stand: generation, interfaces, policies, verified connections
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  enforcer status
  enforcer status --output json | jq .kernel.interfaces")]
pub struct Status {
    #[command(flatten)]
    client: Client,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Status {
    pub(super) fn run(self) -> Result<(), Failure> {
        let status: wire::Status = self.client.get("/v1/status").map_err(|error| {
            match (error.is::<Absent>(), left::in_force()) {
                (true, Some(left)) => anyhow::anyhow!("{error}. {left}"),
                _ => error,
            }
        })?;
        let mut out = io::BufWriter::new(io::stdout().lock());
        match self.output {
            Output::Json => writeln!(
                out,
                "{}",
                serde_json::to_string_pretty(&status).map_err(anyhow::Error::from)?
            )?,
            Output::Text => print(&mut out, &status, colors())?,
        }
        out.flush()?;
        Ok(())
    }
}

fn print(out: &mut impl Write, status: &wire::Status, color: bool) -> io::Result<()> {
    let ready = if status.ready {
        paint("ready", Color::Green, color)
    } else {
        paint("not ready", Color::Red, color)
    };
    writeln!(
        out,
        "enforcer {}, {ready}, up {} s",
        status.version, status.uptime_seconds
    )?;
    let digest: String = status.digest.chars().take(12).collect();
    let since = status.since.as_deref().unwrap_or("-");
    writeln!(out, "generation {} ({digest}) since {since}", status.generation)?;
    if let Some(why) = &status.refused {
        writeln!(
            out,
            "{}",
            paint(
                "the policy files say something that is refused; the above stays in force:",
                Color::Red,
                color
            )
        )?;
        writeln!(out, "{why}")?;
    }
    print_configuration(out, &status.configuration, color)?;
    match &status.kernel {
        None => writeln!(out, "\nkernel half: off")?,
        Some(kernel) => print_kernel(out, kernel, color)?,
    }
    if !status.policies.is_empty() {
        writeln!(out, "\npacket policies")?;
        print_policies(out, &status.policies)?;
    }
    writeln!(out, "\nroutes    {}", list(&status.routes))?;
    writeln!(out, "services  {}", list(&status.services))?;
    print_gateway(out, status, color)?;
    for each in &status.unused_endpoints {
        let why = match (each.unhealthy, each.ejected) {
            (true, true) => "its checks and requests fail",
            (true, false) => "its checks fail",
            _ => "requests failed there",
        };
        let line = format!("{}: {} is not used: {why}", each.service, each.endpoint);
        writeln!(out, "  {}", paint(&line, Color::Yellow, color))?;
    }
    Ok(())
}

/// Listeners, and the keys of issuers.
fn print_gateway(out: &mut impl Write, status: &wire::Status, color: bool) -> io::Result<()> {
    for each in &status.listeners {
        let files = each.files.iter().map(|file| printable(file));
        let files: Vec<_> = files.collect();
        writeln!(
            out,
            "listener  {} {} {}",
            each.name,
            each.address,
            files.join(", ")
        )?;
        for why in &each.failures {
            let line = format!("changed files are not in use: {}", printable(why));
            writeln!(out, "  {}", paint(&line, Color::Red, color))?;
        }
    }
    for each in &status.issuers {
        let age = match each.age_seconds {
            Some(age) => format!("read {age} s ago"),
            None => "never read".to_owned(),
        };
        writeln!(out, "issuer    {}: {} keys, {age}", each.name, each.keys)?;
        if let Some(why) = &each.failure {
            let line = format!("its keys cannot be read: {}", printable(why));
            writeln!(out, "  {}", paint(&line, Color::Yellow, color))?;
        }
    }
    Ok(())
}

fn print_configuration(
    out: &mut impl Write,
    configuration: &wire::ConfigurationStatus,
    color: bool,
) -> io::Result<()> {
    if let Some(why) = &configuration.refused {
        let line = "the configuration file says something that is refused; the older one stays in force:";
        writeln!(out, "{}\n{why}", paint(line, Color::Red, color))?;
    }
    if !configuration.needs_restart.is_empty() {
        let fields = configuration.needs_restart.join(", ");
        let line = format!("restart the agent to put these changed fields in force: {fields}");
        writeln!(out, "{}", paint(&line, Color::Yellow, color))?;
    }
    Ok(())
}

fn print_kernel(out: &mut impl Write, kernel: &wire::KernelStatus, color: bool) -> io::Result<()> {
    writeln!(out, "\ninterfaces")?;
    let mut rows = vec![["name", "xdp", "tc", "egress of"].map(str::to_owned).to_vec()];
    rows.extend(kernel.interfaces.iter().map(|each| {
        let side = if each.pod { "pod" } else { "node" };
        vec![
            each.name.clone(),
            each.xdp.clone(),
            each.tc.clone(),
            side.to_owned(),
        ]
    }));
    table(out, &rows)?;
    for failure in &kernel.failures {
        writeln!(
            out,
            "  {}",
            paint(
                &format!("{}: {}", failure.name, failure.why),
                Color::Yellow,
                color
            )
        )?;
    }
    for shortfall in &kernel.syn_shortfalls {
        writeln!(
            out,
            "  {}",
            paint(&format!("SYN defence: {shortfall}"), Color::Yellow, color)
        )?;
    }
    if let Some(shortfall) = &kernel.revoke_shortfall {
        let line = format!("`enforcer revoke`: {shortfall}");
        writeln!(out, "  {}", paint(&line, Color::Yellow, color))?;
    }
    writeln!(
        out,
        "\nverified connections {} of {} identities, denied prefixes {}, revoked connections {}, sketch {} KiB",
        kernel.verified_flows,
        kernel.verified_identities,
        kernel.denials,
        kernel.revoked_flows,
        kernel.sketch_bytes / 1024
    )?;
    match (&kernel.pins, &kernel.pins_off) {
        (Some(folder), _) => match &kernel.state_why {
            None => writeln!(out, "state kept from the agent before, pinned in {folder}"),
            Some(why) => writeln!(out, "state begun fresh ({why}), pinned in {folder}"),
        },
        (None, why) => writeln!(
            out,
            "{}",
            paint(
                &format!(
                    "not pinned, so that limits and their state end with the agent: {}",
                    why.as_deref().unwrap_or("-")
                ),
                Color::Yellow,
                color
            )
        ),
    }
}

fn print_policies(out: &mut impl Write, policies: &[wire::PolicyStatus]) -> io::Result<()> {
    let mut rows = vec![
        [
            "name",
            "mode",
            "state",
            "syn cookies",
            "passed",
            "dropped",
            "answered",
            "shadow",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    rows.extend(policies.iter().map(|policy| {
        vec![
            policy.name.clone(),
            policy.mode.clone(),
            policy.state.clone(),
            match policy.answers_syns {
                None => "-",
                Some(false) => "ready",
                Some(true) => "answering",
            }
            .to_owned(),
            policy.passed_packets.to_string(),
            policy.dropped_packets.to_string(),
            policy.answered_packets.to_string(),
            policy.shadow_packets.to_string(),
        ]
    }));
    table(out, &rows)
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "-".to_owned()
    } else {
        names.join(", ")
    }
}
