//! The audit log: one JSON object a line for each decision that is worth keeping.
//!
//! Whoever has decided makes the line and puts it into a bounded queue; one thread writes. Nobody waits for it: what
//! finds the queue full is dropped, and counted. Off unless configured, and then it costs nothing.

pub mod config;
pub mod record;
mod trace;
mod writer;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::Instant,
};

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use serde::Serialize;

pub use trace::trace_id;

use self::{config::AuditConfig, record::Event, writer::Writer};

/// Lines that wait to be written.
const WAITING: usize = 4096;

/// Takes records; clones stand for the same log.
#[derive(Clone, Debug)]
pub struct Audit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    queue: SyncSender<Message>,
    /// One of so many requests that were let through is recorded; 0: none.
    sample: u32,
    requests: Gate,
    /// Of its own, so that no flood of connections hides requests.
    connections: Gate,
    counts: Counts,
}

/// What waits for the writer.
#[derive(Debug)]
enum Message {
    /// With its line end.
    Line(Vec<u8>),
    Stop,
}

/// What became of records.
#[derive(Clone, Debug)]
struct Counts {
    written: IntCounter,
    /// The queue was full.
    dropped: IntCounter,
    /// There were more in a second than are kept.
    over_rate: IntCounter,
    /// The file could not be written.
    failed: IntCounter,
}

/// Lets so many records through in a second: seconds since the start in the upper half, the second's
/// records in the lower.
#[derive(Debug)]
struct Gate {
    per_second: u32,
    start: Instant,
    state: AtomicU64,
}

/// The thread that writes.
#[derive(Debug)]
pub struct AuditThread {
    queue: SyncSender<Message>,
    thread: JoinHandle<()>,
}

/// Why there is no audit log.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("the audit log {file} cannot be opened: {source}")]
    Open { file: String, source: io::Error },
    #[error("no thread for the audit log: {0}")]
    Thread(#[source] io::Error),
    #[error("metrics of the audit log: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Opens the log and starts to write.
///
/// # Errors
/// The file cannot be opened.
pub fn start(config: &AuditConfig, registry: &Registry) -> Result<(Audit, AuditThread), AuditError> {
    let counts = Counts::new(registry)?;
    let writer = Writer::open(config, counts.clone())?;
    let (queue, messages) = sync_channel(WAITING);
    let thread = std::thread::Builder::new()
        .name("audit".to_owned())
        .spawn(move || writer.run(&messages))
        .map_err(AuditError::Thread)?;
    let start = Instant::now();
    let gate = || Gate {
        per_second: config.per_second.get(),
        start,
        state: AtomicU64::new(0),
    };
    let audit = Audit(Arc::new(Inner {
        queue: queue.clone(),
        sample: config.sample,
        requests: gate(),
        connections: gate(),
        counts,
    }));
    Ok((audit, AuditThread { queue, thread }))
}

impl Audit {
    /// Whether a request that was let through is one of those that are recorded.
    #[must_use]
    pub fn samples(&self) -> bool {
        self.0.sample > 0 && fastrand::u32(..self.0.sample) == 0
    }

    /// Records what became of a request, unless there are too many.
    pub fn request(&self, record: impl FnOnce() -> Vec<u8>) {
        self.bounded(&self.0.requests, record);
    }

    /// Records that a connection was not made, unless there are too many.
    pub fn connection(&self, record: impl FnOnce() -> Vec<u8>) {
        self.bounded(&self.0.connections, record);
    }

    fn bounded(&self, gate: &Gate, record: impl FnOnce() -> Vec<u8>) {
        if gate.admits(gate.start.elapsed().as_secs()) {
            self.send(record());
        } else {
            self.0.counts.over_rate.inc();
        }
    }

    /// Records what the agent or its operator has done.
    pub fn event(&self, event: &Event<'_>) {
        self.send(line(event));
    }

    fn send(&self, line: Vec<u8>) {
        if self.0.queue.try_send(Message::Line(line)).is_err() {
            self.0.counts.dropped.inc();
        }
    }
}

impl AuditThread {
    /// Writes what waits, and ends.
    pub fn stop(self) {
        let told = self.queue.send(Message::Stop).is_ok();
        if !told || self.thread.join().is_err() {
            tracing::error!("the audit log's thread had panicked");
        }
    }
}

/// A record as a line. `time` comes first, and serde escapes what strangers wrote.
fn line<T: Serialize>(record: &T) -> Vec<u8> {
    let timed = record::Timed::now(record);
    match serde_json::to_vec(&timed) {
        Ok(mut line) => {
            line.push(b'\n');
            line
        }
        // Records have texts as keys, and nothing else can go wrong; a line says so all the same.
        Err(error) => format!(
            "{{\"event\":\"unwritable\",\"detail\":{:?}}}\n",
            error.to_string()
        )
        .into_bytes(),
    }
}

impl Gate {
    fn admits(&self, second: u64) -> bool {
        let admit = |state: u64| {
            let (at, count) = (state >> 32, state & u64::from(u32::MAX));
            // A thread that is late counts for the second that has begun.
            let (at, count) = if at < second { (second, 0) } else { (at, count) };
            (count < u64::from(self.per_second)).then_some(at << 32 | (count + 1))
        };
        self.state
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, admit)
            .is_ok()
    }
}

impl Counts {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let records = IntCounterVec::new(
            Opts::new(
                "enforcer_audit_records_total",
                "Records of the audit log, by what became of them.",
            ),
            &["result"],
        )?;
        registry.register(Box::new(records.clone()))?;
        let count = |result| records.with_label_values(&[result]);
        Ok(Self {
            written: count("written"),
            dropped: count("dropped"),
            over_rate: count("over_rate"),
            failed: count("failed"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_pass_in_a_second() {
        let gate = Gate {
            per_second: 3,
            start: Instant::now(),
            state: AtomicU64::new(0),
        };
        let admitted = |second| (0..5).filter(|_| gate.admits(second)).count();
        assert_eq!(
            [admitted(0), admitted(0), admitted(1), admitted(0), admitted(7)],
            [3, 0, 3, 0, 3]
        );
    }
}
