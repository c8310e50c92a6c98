//! Processor time beside nginx's as a chart of grouped bars.

use std::fmt::Write as _;

use super::{proxy::Proxy, report::Results};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 56.0;
const TOP: f64 = 100.0;
const BOTTOM: f64 = 48.0;
const RIGHT: f64 = 16.0;
const COLOURS: [&str; 6] = ["#9aa0a6", "#1a73e8", "#188038", "#b06000", "#e8710a", "#a142f4"];
/// Bars end here; what is more is written above them.
const MOST: f64 = 4.0;

/// The chart.
pub(super) fn svg(results: &Results) -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"16\">Processor time per request, nginx = 1 (less is better)</text>\n"
    );
    for (at, (proxy, colour)) in Proxy::ALL.into_iter().zip(COLOURS).enumerate() {
        let (x, y) = (LEFT + (at % 3) as f64 * 290.0, 40.0 + (at / 3) as f64 * 22.0);
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{colour}\"/><text x=\"{}\" y=\"{}\">{}</text>",
            x + 18.0,
            y + 11.0,
            proxy.title()
        );
    }
    for mark in 0..=MOST as u32 {
        let y = height_of(f64::from(mark));
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#dadce0\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{mark}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            y + 4.0
        );
    }
    let mut cases = results.cases();
    // What nginx does not do has no ratio to it.
    cases.retain(|&case| results.cell(Proxy::Nginx, case).is_some());
    let group = (WIDTH - LEFT - RIGHT) / cases.len().max(1) as f64;
    let width = group * 0.84 / Proxy::ALL.len() as f64;
    for (at, case) in cases.into_iter().enumerate() {
        let left = LEFT + at as f64 * group;
        for (row, (proxy, colour)) in Proxy::ALL.into_iter().zip(COLOURS).enumerate() {
            let Some(ratio) = results.cell(proxy, case).and_then(|cell| cell.ratio_to_nginx) else {
                continue;
            };
            let (x, y) = (
                left + group * 0.08 + row as f64 * width,
                height_of(ratio.min(MOST)),
            );
            let _ = writeln!(
                out,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"8\" text-anchor=\"middle\">{ratio:.2}</text>",
                width - 1.0,
                HEIGHT - BOTTOM - y,
                x + width / 2.0,
                y - 3.0
            );
        }
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            left + group / 2.0,
            HEIGHT - BOTTOM + 20.0,
            case.title()
        );
    }
    out.push_str("</svg>\n");
    out
}

fn height_of(ratio: f64) -> f64 {
    HEIGHT - BOTTOM - ratio / MOST * (HEIGHT - BOTTOM - TOP)
}
