//! Load on a gateway, and what it felt like.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use serde::Serialize;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::client::{Ask, Client, Connection};

/// No load sends more than this: samples are kept one by one.
const MOST_REQUESTS: u64 = 1_000_000;

/// When the next request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// When the previous one on the same connection is answered.
    Closed,
    /// By the clock, over all connections. A request that starts late counts its delay.
    PerSecond(NonZeroU32),
}

/// Whether connections serve more than one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    KeepAlive,
    PerRequest,
}

/// Load to put on.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub connections: u32,
    pub pace: Pace,
    pub reuse: Reuse,
    /// Requests before this are sent, not counted.
    pub warm_up: Duration,
    /// How long requests are counted.
    pub duration: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub requests: u64,
    /// Answered with a status of 200 to 299.
    pub succeeded: u64,
    /// By kind: a status, or how the connection failed.
    pub failures: BTreeMap<String, u64>,
    /// Of the answered ones, in microseconds, ascending.
    #[serde(skip)]
    latencies: Vec<u64>,
}

impl Load {
    /// Puts the load on; all connections from this task's runtime.
    pub async fn run(self, client: Client, ask: Ask) -> Report {
        let start = Instant::now();
        let mut workers = JoinSet::new();
        for number in 0..self.connections {
            let worker = Worker {
                load: self,
                client: client.clone(),
                ask: ask.clone(),
                connection: None,
                report: Report::default(),
            };
            drop(workers.spawn(worker.run(start, number)));
        }
        let mut total = Report::default();
        while let Some(report) = workers.join_next().await {
            match report {
                Ok(report) => total.add(report),
                Err(_panic) => total.fail("client panicked"),
            }
        }
        total.latencies.sort_unstable();
        total
    }

    /// When the request `index` of connection `number` is due.
    fn due(&self, start: Instant, number: u32, index: u64) -> Instant {
        match self.pace {
            Pace::Closed => Instant::now(),
            Pace::PerSecond(rate) => {
                let position = index * u64::from(self.connections) + u64::from(number);
                start + Duration::from_nanos(position * 1_000_000_000 / u64::from(rate.get()))
            }
        }
    }
}

impl Report {
    /// Of 100.
    #[must_use]
    pub fn success_percent(&self) -> f64 {
        if self.requests == 0 {
            return 0.0;
        }
        self.succeeded as f64 * 100.0 / self.requests as f64
    }

    /// The latency that `percent` of the answered requests did not exceed. Zero if none was answered.
    #[must_use]
    pub fn percentile(&self, percent: u32) -> Duration {
        let count = self.latencies.len();
        let rank = (count * percent as usize).div_ceil(100).clamp(1, count.max(1));
        Duration::from_micros(self.latencies.get(rank - 1).copied().unwrap_or(0))
    }

    /// The longest latency.
    #[must_use]
    pub fn max(&self) -> Duration {
        self.percentile(100)
    }

    fn fail(&mut self, kind: impl Into<String>) {
        self.requests += 1;
        *self.failures.entry(kind.into()).or_default() += 1;
    }

    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.succeeded += other.succeeded;
        for (kind, count) in other.failures {
            *self.failures.entry(kind).or_default() += count;
        }
        self.latencies.extend(other.latencies);
    }
}

struct Worker {
    load: Load,
    client: Client,
    ask: Ask,
    connection: Option<Connection>,
    report: Report,
}

impl Worker {
    async fn run(mut self, start: Instant, number: u32) -> Report {
        let counted_from = start + self.load.warm_up;
        let end = counted_from + self.load.duration;
        let most = MOST_REQUESTS / u64::from(self.load.connections.max(1));
        for index in 0..most {
            let due = self.load.due(start, number, index);
            if due >= end {
                break;
            }
            let counted = due >= counted_from;
            if Instant::now() >= end {
                // Due, and never sent, because earlier ones took so long.
                if counted {
                    self.report.fail("not sent in time");
                }
                continue;
            }
            sleep_until(due).await;
            let outcome = self.ask().await;
            if counted {
                self.count(outcome, due);
            }
        }
        self.report
    }

    async fn ask(&mut self) -> Result<http::StatusCode, &'static str> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.client.connect().await.map_err(|failure| failure.kind())?,
        };
        let answer = connection
            .send(&self.ask)
            .await
            .map_err(|failure| failure.kind())?;
        if self.load.reuse == Reuse::KeepAlive {
            self.connection = Some(connection);
        }
        Ok(answer.status)
    }

    fn count(&mut self, outcome: Result<http::StatusCode, &'static str>, due: Instant) {
        match outcome {
            Ok(status) => {
                let latency = due.elapsed().as_micros();
                self.report
                    .latencies
                    .push(u64::try_from(latency).unwrap_or(u64::MAX));
                if status.is_success() {
                    self.report.requests += 1;
                    self.report.succeeded += 1;
                } else {
                    self.report.fail(format!("status {}", status.as_u16()));
                }
            }
            Err(kind) => self.report.fail(kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(latencies: impl IntoIterator<Item = u64>) -> Report {
        Report {
            latencies: latencies.into_iter().collect(),
            ..Report::default()
        }
    }

    #[test]
    fn percentiles_are_samples_by_rank() {
        let hundred = report(1..=100);
        assert_eq!(hundred.percentile(50), Duration::from_micros(50));
        assert_eq!(hundred.percentile(99), Duration::from_micros(99));
        assert_eq!(hundred.max(), Duration::from_micros(100));
        assert_eq!(report([7]).percentile(50), Duration::from_micros(7));
        assert_eq!(report([]).percentile(50), Duration::ZERO);
    }

    #[test]
    fn a_report_without_requests_is_no_success() {
        assert!(Report::default().success_percent() < 1.0);
    }
}
