//! The results: as tables, and as JSON.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    crowd,
    proxy::{Memory, Proxy},
    work::{Case, Sample},
};
use crate::bench::{Machine, median};

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Results {
    pub(super) machine: Machine,
    pub(super) rounds: usize,
    pub(super) versions: Vec<(&'static str, String)>,
    pub(super) cells: Vec<Cell>,
    pub(super) memory: Vec<Memory>,
    pub(super) crowd: crowd::Size,
    pub(super) felt: Vec<crowd::Felt>,
}

/// One proxy at one kind of work; medians.
#[derive(Debug, Serialize)]
pub(super) struct Cell {
    pub(super) proxy: &'static str,
    pub(super) case: &'static str,
    /// Processor time of the proxy per request.
    pub(super) microseconds: f64,
    /// The same beside nginx's in the same round, and beside the others'.
    pub(super) ratio_to_nginx: Option<f64>,
    pub(super) ratio_to_envoy: Option<f64>,
    pub(super) ratio_to_floor: Option<f64>,
    pub(super) requests_per_second: f64,
    /// Latencies in microseconds.
    pub(super) p50: f64,
    pub(super) p99: f64,
    /// Of each round, in microseconds of processor time.
    pub(super) samples: Vec<f64>,
}

/// How a figure of a cell is shown.
type Figure = fn(&Cell) -> String;

/// What was measured in each round.
#[derive(Default)]
pub(super) struct Samples(BTreeMap<(Case, Proxy), Vec<Sample>>);

impl Samples {
    pub(super) fn add(&mut self, proxy: Proxy, case: Case, sample: Sample) {
        self.0.entry((case, proxy)).or_default().push(sample);
    }

    /// Medians, and medians of the ratios within each round.
    pub(super) fn medians(&self) -> Vec<Cell> {
        let ratio = |case: Case, samples: &[Sample], to: Proxy| {
            let to = self.0.get(&(case, to))?;
            let ratios: Vec<f64> = samples
                .iter()
                .zip(to)
                .map(|(ours, theirs)| ours.microseconds / theirs.microseconds)
                .collect();
            Some(median(&ratios))
        };
        let of = |samples: &[Sample], figure: fn(&Sample) -> f64| {
            median(&samples.iter().map(figure).collect::<Vec<_>>())
        };
        self.0
            .iter()
            .map(|(&(case, proxy), samples)| Cell {
                proxy: proxy.key(),
                case: case.key(),
                microseconds: of(samples, |sample| sample.microseconds),
                ratio_to_nginx: ratio(case, samples, Proxy::Nginx),
                ratio_to_envoy: ratio(case, samples, Proxy::Envoy),
                ratio_to_floor: ratio(case, samples, Proxy::Floor),
                requests_per_second: of(samples, |sample| sample.requests_per_second),
                p50: of(samples, |sample| sample.p50),
                p99: of(samples, |sample| sample.p99),
                samples: samples.iter().map(|sample| sample.microseconds).collect(),
            })
            .collect()
    }
}

impl Results {
    /// The cell of a proxy and a case.
    pub(super) fn cell(&self, proxy: Proxy, case: Case) -> Option<&Cell> {
        self.cells
            .iter()
            .find(|cell| cell.proxy == proxy.key() && cell.case == case.key())
    }

    /// The cases that were measured.
    pub(super) fn cases(&self) -> Vec<Case> {
        let measured = |case: &Case| self.cells.iter().any(|cell| cell.case == case.key());
        Case::ALL.into_iter().filter(measured).collect()
    }

    /// Prints the tables.
    pub(super) fn print(&self) {
        let Machine {
            kernel,
            processor,
            processors,
        } = &self.machine;
        println!(
            "Linux {kernel}, {processor}, {processors} processors: one for the proxy, one for load and upstream"
        );
        for (proxy, version) in &self.versions {
            println!("{proxy}: {version}");
        }
        let tables: [(&str, Figure); 4] = [
            (
                "Microseconds of the proxy's processor time per request (ratio to nginx)",
                |cell| match cell.ratio_to_nginx {
                    Some(ratio) => format!("{:.1} ({ratio:.2})", cell.microseconds),
                    None => format!("{:.1}", cell.microseconds),
                },
            ),
            ("Requests per second", |cell| {
                format!("{:.0}", cell.requests_per_second)
            }),
            ("Latency, median, microseconds", |cell| format!("{:.0}", cell.p50)),
            ("Latency, 99 %, microseconds", |cell| format!("{:.0}", cell.p99)),
        ];
        for (title, show) in tables {
            println!("\n{title}; medians of {} rounds\n", self.rounds);
            print!("{:36}", "");
            for case in self.cases() {
                print!("{:>15}", case.title());
            }
            println!();
            for proxy in Proxy::ALL {
                if !self.cells.iter().any(|cell| cell.proxy == proxy.key()) {
                    continue;
                }
                print!("{:36}", proxy.title());
                for case in self.cases() {
                    let shown = self.cell(proxy, case).map_or_else(|| "-".to_owned(), show);
                    print!("{shown:>15}");
                }
                println!();
            }
        }
        println!("\nMemory, MiB\n");
        for memory in &self.memory {
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            let (few, at_end) = (mib(memory.few), mib(memory.few_at_end));
            print!(
                "{:12}64 connections {few:>8.1}   at the end {at_end:>8.1}",
                memory.proxy
            );
            if let Some((count, bytes)) = memory.many {
                let each = bytes.saturating_sub(memory.few_at_end) as f64 / 1024.0 / count as f64;
                print!("   {count} idle {:>8.1}   {each:.1} KiB each", mib(bytes));
            }
            println!();
        }
        if !self.felt.is_empty() {
            crowd::print(&self.felt, self.crowd);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_within_a_round() {
        let mut samples = Samples::default();
        // The machine is twice as fast in the second round; nobody's ratio changes.
        for speed in [1.0, 2.0] {
            for (proxy, cost) in [
                (Proxy::Enforcer, 30.0),
                (Proxy::Nginx, 20.0),
                (Proxy::Envoy, 60.0),
            ] {
                let sample = Sample {
                    microseconds: cost / speed,
                    requests_per_second: 1.0,
                    p50: 1.0,
                    p99: 1.0,
                };
                samples.add(proxy, Case::Http1, sample);
            }
        }
        let cells = samples.medians();
        let ours = cells.iter().find(|cell| cell.proxy == "enforcer").unwrap();
        assert_eq!(ours.ratio_to_nginx, Some(1.5));
        assert_eq!(ours.ratio_to_envoy, Some(0.5));
        assert_eq!(ours.ratio_to_floor, None);
    }
}
