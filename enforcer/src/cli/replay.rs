//! `enforcer replay`

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
};

use anyhow::anyhow;
use clap::Args;
use ipnet::IpNet;

use super::{
    Failure, Output, colors,
    text::{Color, paint, table},
};
use crate::{
    config::SketchMemory,
    replay::{self, LONGEST, Options, Report, TalkerReport},
};

/// Show what policies would have done with recorded packets
///
/// The recording (pcap or pcapng; Ethernet, raw IP or Linux cooked) goes through the programs that
/// enforce, at the times at which it was recorded. Nothing is attached, no running agent is needed or
/// touched. Needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tcpdump -i eth0 -w edge.pcap                     record
  enforcer replay edge.pcap --policy candidate.yaml
  enforcer replay edge.pcapng --policy policies/ --interface eth1 --local 192.0.2.1/32
  enforcer replay edge.pcap --policy candidate.yaml --output json | jq .verdicts")]
pub struct Replay {
    /// The recording
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Policy files or directories, as one set
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    policy: Vec<PathBuf>,
    /// The interface that packets are taken to come from; if absent, the first that a policy is about
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Prefixes of the node itself: packets from there leave, where the recording does not say
    #[arg(long, num_args = 1.., value_name = "PREFIX")]
    local: Vec<IpNet>,
    /// Prefixes that are never dropped, as the agent's `kernel.management`
    #[arg(long, num_args = 1.., value_name = "PREFIX")]
    management: Vec<IpNet>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Replay {
    pub(super) fn run(self) -> Result<(), Failure> {
        let loaded =
            enforcer_policy::load(&self.policy).map_err(|problems| Failure::Invalid(problems.into()))?;
        for warning in &loaded.warnings {
            eprintln!("{warning}");
        }
        let options = Options {
            file: self.file,
            interface: self.interface,
            local: self.local,
            management: self.management,
            sketch: SketchMemory::default(),
        };
        let report = replay::replay(&Arc::new(loaded.set), &options)
            .map_err(|error| Failure::Failed(anyhow!(error)))?;
        let mut out = io::BufWriter::new(io::stdout().lock());
        match self.output {
            Output::Json => writeln!(
                out,
                "{}",
                serde_json::to_string_pretty(&report).map_err(anyhow::Error::from)?
            )?,
            Output::Text => print(&mut out, &report, colors())?,
        }
        out.flush()?;
        Ok(())
    }
}

fn print(out: &mut impl Write, report: &Report, color: bool) -> io::Result<()> {
    let rate = |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0} packets/s"));
    writeln!(out, "{}, as if on {}", report.file, report.interface)?;
    if !report.complete {
        let text = "the file ends in the middle of a packet: what was before is below";
        writeln!(out, "{}", paint(text, Color::Yellow, color))?;
    }
    writeln!(
        out,
        "{} packets, {} bytes, {} to {}",
        report.packets,
        report.bytes,
        report.first.as_deref().unwrap_or("-"),
        report.last.as_deref().unwrap_or("-")
    )?;
    writeln!(
        out,
        "recorded in {:.3} s ({}), replayed in {:.3} s ({})",
        report.recorded_seconds,
        rate(report.recorded_packets_per_second),
        report.replayed_seconds,
        rate(report.replayed_packets_per_second)
    )?;
    writeln!(
        out,
        "passed {}, dropped {}, would be dropped without shadow {}",
        paint(&report.passed.to_string(), Color::Green, color),
        paint(&report.dropped.to_string(), Color::Red, color),
        paint(&report.shadow.to_string(), Color::Yellow, color)
    )?;
    print_notes(out, report)?;
    print_verdicts(out, report)?;
    print_sources(out, "sources by packets", &report.top_sources)?;
    print_sources(
        out,
        "sources by packets dropped (shadow included)",
        &report.top_dropped,
    )
}

fn print_notes(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let skipped = report.skipped;
    let notes = [
        (
            skipped.too_short,
            "not replayed: cut off in the link header, or leaving without a whole IP header".to_owned(),
        ),
        (
            skipped.cut_by_recorder,
            "kept in part by the recorder (snap length): the rest taken for zeros".to_owned(),
        ),
        (
            skipped.shortened,
            format!("joined by offloads: replayed as one packet of {LONGEST} bytes each"),
        ),
        (
            skipped.out_of_order,
            "earlier than a packet before them: replayed at its time".to_owned(),
        ),
        (
            skipped.without_time,
            "recorded without a time: replayed at that of the packet before".to_owned(),
        ),
    ];
    if report.packets > 0 && report.verdicts.iter().all(|row| row.direction != "egress") {
        writeln!(
            out,
            "note: no packet left the node: if the recording has both directions, say --local what the node's own \
             addresses are"
        )?;
    }
    for (count, note) in notes.iter().filter(|(count, _)| *count > 0) {
        writeln!(out, "note: {count} {note}")?;
    }
    Ok(())
}

fn print_verdicts(out: &mut impl Write, report: &Report) -> io::Result<()> {
    writeln!(out, "\nverdicts")?;
    let mut rows = vec![
        [
            "direction",
            "policy",
            "reason",
            "limit",
            "verdict",
            "packets",
            "bytes",
            "share",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    rows.extend(report.verdicts.iter().map(|row| {
        vec![
            row.direction.clone(),
            row.policy.clone().unwrap_or_else(|| "-".to_owned()),
            row.reason.clone(),
            row.limit.clone().unwrap_or_else(|| "-".to_owned()),
            row.verdict.clone(),
            row.packets.to_string(),
            row.bytes.to_string(),
            format!(
                "{:.2} %",
                row.packets as f64 * 100.0 / report.packets.max(1) as f64
            ),
        ]
    }));
    table(out, &rows)
}

fn print_sources(out: &mut impl Write, title: &str, sources: &[TalkerReport]) -> io::Result<()> {
    if sources.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{title}")?;
    let mut rows = vec![["source", "packets"].map(str::to_owned).to_vec()];
    rows.extend(sources.iter().map(|each| {
        let packets = match each.error {
            0 => each.packets.to_string(),
            error => format!("{} to {}", each.packets - error, each.packets),
        };
        vec![each.source.to_string(), packets]
    }));
    table(out, &rows)
}
