//! The rates as a chart of grouped bars.

use std::fmt::Write as _;

use super::{contenders::Contender, report::Results, traffic::Column};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 56.0;
const TOP: f64 = 96.0;
const BOTTOM: f64 = 48.0;
const RIGHT: f64 = 16.0;
const COLOURS: [&str; 6] = ["#9aa0a6", "#1a73e8", "#174ea6", "#7baaf7", "#e8710a", "#b06000"];

/// The chart.
pub(super) fn svg(results: &Results) -> String {
    let most = results
        .cells
        .iter()
        .map(|cell| cell.packets_per_second / 1e6)
        .fold(1.0, f64::max)
        .ceil();
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"16\">Packets decided per second on one processor, millions</text>\n"
    );
    legend(&mut out);
    axis(&mut out, most);
    bars(&mut out, results, most);
    out.push_str("</svg>\n");
    out
}

fn legend(out: &mut String) {
    for (at, (contender, colour)) in Contender::ALL.into_iter().zip(COLOURS).enumerate() {
        let (x, y) = (LEFT + (at % 3) as f64 * 262.0, 40.0 + (at / 3) as f64 * 22.0);
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{colour}\"/><text x=\"{}\" y=\"{}\">{}</text>",
            x + 18.0,
            y + 11.0,
            contender.title()
        );
    }
}

fn axis(out: &mut String, most: f64) {
    let mut mark = 0.0;
    while mark <= most {
        let y = height_of(mark, most);
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#dadce0\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{mark:.0}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            y + 4.0
        );
        mark += 1.0;
    }
}

fn bars(out: &mut String, results: &Results, most: f64) {
    let group = (WIDTH - LEFT - RIGHT) / Column::ALL.len() as f64;
    let width = group * 0.84 / Contender::ALL.len() as f64;
    for (at, column) in Column::ALL.into_iter().enumerate() {
        let left = LEFT + at as f64 * group;
        for (row, (contender, colour)) in Contender::ALL.into_iter().zip(COLOURS).enumerate() {
            let Some(cell) = results.cell(contender, column) else {
                continue;
            };
            let y = height_of(cell.packets_per_second / 1e6, most);
            let _ = writeln!(
                out,
                "<rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>",
                left + group * 0.08 + row as f64 * width,
                width - 1.0,
                HEIGHT - BOTTOM - y
            );
        }
        let unit = match column {
            Column::Sources(1) => " source",
            Column::Sources(_) => " sources",
            Column::Mixed => "",
        };
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}{unit}</text>",
            left + group / 2.0,
            HEIGHT - BOTTOM + 20.0,
            column.title()
        );
    }
}

fn height_of(millions: f64, most: f64) -> f64 {
    HEIGHT - BOTTOM - millions / most * (HEIGHT - BOTTOM - TOP)
}
