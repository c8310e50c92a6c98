//! The results as a person reads them.

use super::{
    Results,
    flood::{Arrival, Phase},
    screen::{Screen, Tone},
};

pub(super) fn print(screen: &Screen, results: &Results) {
    print_requests(screen, results);
    print_client(screen, &results.phases);
    for phase in &results.phases {
        if let Some(flood) = &phase.flood {
            print_flood(screen, &phase.name, flood);
        }
    }
    println!();
    if results.passed {
        screen.line("Everything that must hold holds.", Tone::Good);
    }
    for broken in &results.broken {
        screen.line(&format!("DOES NOT HOLD  {broken}"), Tone::Bad);
    }
}

fn print_requests(screen: &Screen, results: &Results) {
    screen.line("\nWhat the gateway answers", Tone::Strong);
    let width = results
        .requests
        .iter()
        .map(|check| check.what.chars().count())
        .max()
        .unwrap_or(0);
    for check in &results.requests {
        let (mark, tone) = if check.holds {
            ("ok ", Tone::Plain)
        } else {
            ("BAD", Tone::Bad)
        };
        screen.line(&format!("  {mark}  {:width$}  {}", check.what, check.got), tone);
    }
}

fn print_client(screen: &Screen, phases: &[Phase]) {
    screen.line(
        "\nWhat the verified client feels (kept connections, 200 requests a second)",
        Tone::Strong,
    );
    let width = phases.iter().map(|phase| phase.name.len()).max().unwrap_or(0);
    println!(
        "       {:width$}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}",
        "flood", "requests", "success", "p50", "p99", "max"
    );
    for phase in phases {
        let (mark, tone) = if phase.broken.is_empty() {
            ("   ", Tone::Plain)
        } else {
            ("BAD", Tone::Bad)
        };
        let line = format!(
            "  {mark}  {:width$}  {:>9}  {:>7.2} %  {:>9}  {:>9}  {:>9}",
            phase.name,
            thousands(phase.load.requests),
            phase.load.success_percent(),
            millis(phase.p50_us),
            millis(phase.p99_us),
            millis(phase.max_us),
        );
        screen.line(&line, tone);
        for (kind, count) in &phase.load.failures {
            println!("       {:width$}  {:>9}  {kind}", "", thousands(*count));
        }
    }
}

fn print_flood(screen: &Screen, name: &str, flood: &Arrival) {
    screen.line(&format!("\nWhat became of the flood: {name}"), Tone::Strong);
    let row = |count: u64, what: &str| println!("  {:>12}  {what}", thousands(count));
    row(
        flood.sent,
        &format!("SYNs sent, {} a second", thousands(flood.sent_per_second)),
    );
    row(flood.lost, "lost by the link before the kernel program");
    row(flood.arrived, "reached the kernel program");
    for (verdict, count) in &flood.verdicts {
        row(*count, &format!("  {verdict}"));
    }
}

/// Zero is no latency: nothing was answered.
fn millis(micros: u128) -> String {
    if micros == 0 {
        return "none".to_owned();
    }
    format!("{:.2} ms", micros as f64 / 1000.0)
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1000), "1,000");
        assert_eq!(thousands(4_200_000), "4,200,000");
    }
}
