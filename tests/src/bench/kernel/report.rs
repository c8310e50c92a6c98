//! The results: as tables, and as JSON.

use serde::Serialize;

use super::{contenders::Contender, footprint::Footprint, stages::Stage, traffic::Column};
use crate::bench::{Machine, median};

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Results {
    pub(super) machine: Machine,
    pub(super) rounds: usize,
    /// Of each cell in each round.
    pub(super) seconds: f64,
    pub(super) cells: Vec<Cell>,
    pub(super) stages: Vec<Stage>,
    pub(super) footprint: Footprint,
}

/// One contender under one kind of traffic.
#[derive(Debug, Serialize)]
pub(super) struct Cell {
    pub(super) contender: &'static str,
    pub(super) sources: String,
    /// Median of packets per second.
    pub(super) packets_per_second: f64,
    /// Median of the ratios to the empty program of the same round.
    pub(super) ratio_to_empty: Option<f64>,
    /// Median of the ratios to the nftables meter of the same round.
    pub(super) ratio_to_nftables: Option<f64>,
    pub(super) samples: Vec<f64>,
}

/// Cells of samples by row, column and round.
pub(super) fn cells(contenders: &[Contender], samples: &[Vec<Vec<f64>>]) -> Vec<Cell> {
    let place = |wanted| contenders.iter().position(|contender| *contender == wanted);
    let ratio = |row: usize, column: usize, to: Option<usize>| {
        let to = &samples[to?][column];
        let ratios: Vec<f64> = samples[row][column].iter().zip(to).map(|(a, b)| a / b).collect();
        Some(median(&ratios))
    };
    let mut cells = Vec::new();
    for (row, contender) in contenders.iter().enumerate() {
        for (at, column) in Column::ALL.into_iter().enumerate() {
            cells.push(Cell {
                contender: contender.key(),
                sources: column.title(),
                packets_per_second: median(&samples[row][at]),
                ratio_to_empty: ratio(row, at, place(Contender::Empty)),
                ratio_to_nftables: ratio(row, at, place(Contender::Nftables)),
                samples: samples[row][at].clone(),
            });
        }
    }
    cells
}

impl Results {
    /// The cell of a row and a column.
    pub(super) fn cell(&self, contender: Contender, column: Column) -> Option<&Cell> {
        let title = column.title();
        self.cells
            .iter()
            .find(|cell| cell.contender == contender.key() && cell.sources == title)
    }

    /// Prints the tables.
    pub(super) fn print(&self) {
        let Machine {
            kernel,
            processor,
            processors,
        } = &self.machine;
        println!("Linux {kernel}, {processor}, {processors} processors; one sends and receives");
        println!(
            "Millions of packets a second (ratio to the empty program), medians of {} rounds of {} s\n",
            self.rounds, self.seconds
        );
        print!("{:34}", "sources");
        for column in Column::ALL {
            print!("{:>14}", column.title());
        }
        println!();
        for contender in Contender::ALL {
            if self.cell(contender, Column::ALL[0]).is_none() {
                continue;
            }
            print!("{:34}", contender.title());
            for column in Column::ALL {
                if let Some(cell) = self.cell(contender, column) {
                    let (rate, ratio) = (cell.packets_per_second / 1e6, cell.ratio_to_empty.unwrap_or(1.0));
                    print!("{:>14}", format!("{rate:.2} ({ratio:.2})"));
                }
            }
            println!();
        }
        println!("\nNanoseconds per packet, one packet 1,000,000 times (an empty program's run is in it)\n");
        for stage in &self.stages {
            println!("{:34}{:>8.0}  {}", stage.stage, stage.ns, stage.verdict);
        }
        println!("\nInstructions\n");
        for program in &self.footprint.programs {
            println!(
                "{:34}{:>8}  {} verified",
                program.program, program.translated, program.verified
            );
        }
        println!("\nMemory of maps, KiB\n");
        for (map, bytes) in &self.footprint.maps {
            println!("{map:34}{:>8}", bytes / 1024);
        }
        println!("{:34}{:>8}", "all", self.footprint.maps_total / 1024);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_within_a_round() {
        // The machine is twice as fast in the second round; nobody's ratio changes.
        let samples: Vec<Vec<Vec<f64>>> = (1..=Contender::ALL.len())
            .map(|row| vec![vec![1.0 / row as f64, 2.0 / row as f64]; Column::ALL.len()])
            .collect();
        for (at, cell) in cells(&Contender::ALL, &samples).iter().enumerate() {
            let row = at / Column::ALL.len() + 1;
            assert!(
                (cell.ratio_to_empty.unwrap() * row as f64 - 1.0).abs() < 1e-9,
                "{cell:?}"
            );
        }
    }
}
