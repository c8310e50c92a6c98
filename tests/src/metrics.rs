//! Reads the agent's metrics: the Prometheus text format.

use anyhow::{Result, anyhow};

/// What one scrape said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics(Vec<Sample>);

/// One line of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: Vec<(String, String)>,
    pub value: f64,
}

impl Sample {
    /// A label's value; empty if it has none, as Prometheus has it.
    #[must_use]
    pub fn label(&self, name: &str) -> &str {
        self.labels
            .iter()
            .find_map(|(label, value)| (label == name).then_some(value.as_str()))
            .unwrap_or_default()
    }
}

impl Metrics {
    /// Parses a scrape.
    ///
    /// # Errors
    /// The line that is no sample.
    pub fn parse(text: &str) -> Result<Self> {
        text.lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| parse_sample(line).ok_or_else(|| anyhow!("no metric: `{line}`")))
            .collect::<Result<Vec<_>>>()
            .map(Self)
    }

    /// The samples of one metric.
    pub fn samples<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| sample.name == name)
    }

    /// The sum of the samples that have all these labels. Zero if there is none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.samples(name)
            .filter(|sample| labels.iter().all(|(label, value)| sample.label(label) == *value))
            .map(|sample| sample.value)
            .sum()
    }
}

fn parse_sample(line: &str) -> Option<Sample> {
    let end_of_name = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end_of_name);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => parse_labels(rest)?,
        None => (Vec::new(), rest),
    };
    // A timestamp may follow.
    let value = rest.split_ascii_whitespace().next()?;
    let value = match value {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        value => value.parse().ok()?,
    };
    Some(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

/// Parses `name="value",…}`; gives what follows.
fn parse_labels(mut rest: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, after) = rest.split_once("=\"")?;
        let (value, after) = parse_quoted(after)?;
        labels.push((name.to_owned(), value));
        rest = after;
    }
}

/// Parses up to the closing quote; `\\`, `\"` and `\n` are escapes.
fn parse_quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_by_label() {
        let metrics = Metrics::parse(concat!(
            "# HELP enforcer_packets_total Packets.\n",
            "# TYPE enforcer_packets_total counter\n",
            "enforcer_packets_total{policy=\"edge\",verdict=\"drop\"} 3\n",
            "enforcer_packets_total{policy=\"edge\",verdict=\"pass\",} 4 1700000000000\n",
            "enforcer_generation 7\n",
        ))
        .unwrap();
        assert_eq!(metrics.sum("enforcer_packets_total", &[("policy", "edge")]), 7.0);
        assert_eq!(metrics.sum("enforcer_packets_total", &[("verdict", "drop")]), 3.0);
        assert_eq!(metrics.sum("enforcer_generation", &[]), 7.0);
        assert_eq!(metrics.sum("enforcer_absent", &[]), 0.0);
    }

    #[test]
    fn label_values_may_hold_anything() {
        let metrics = Metrics::parse("a{b=\"x\\\"},y\\\\\\n\",c=\"\"} +Inf").unwrap();
        let sample = metrics.samples("a").next().unwrap();
        assert_eq!(sample.label("b"), "x\"},y\\\n");
        assert_eq!(sample.label("c"), "");
        assert!(sample.value.is_infinite());
    }

    #[test]
    fn what_is_no_metric_is_refused() {
        for line in ["name", "name{a=\"b\" 1", "name one", "name{a} 1"] {
            assert!(Metrics::parse(line).is_err(), "{line}");
        }
    }
}
