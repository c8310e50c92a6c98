//! The audit log: one JSON object a line for each decision that is worth keeping.
//!
//! Whoever has decided makes the line and puts it into a bounded queue; one thread writes. Nobody waits for it: what
//! finds the queue full is dropped, and counted. What operators do has a queue of its own, so that no crowd of requests or
//! of automatic denials hides it. Off unless configured, and then it costs nothing.

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
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use serde::Serialize;

pub use trace::trace_id;

use self::{config::AuditConfig, record::Event, writer::Writer};

/// Lines that wait to be written, beside those about what operators do.
const WAITING: usize = 4096;
/// Of those.
const WAITING_OF_OPERATORS: usize = 1024;

/// How often is looked whether the thread has ended.
const POLL: Duration = Duration::from_millis(5);

/// Takes records; clones stand for the same log.
#[derive(Clone, Debug)]
pub struct Audit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    queue: SyncSender<Message>,
    operators: SyncSender<Vec<u8>>,
    /// One of so many requests that were let through is recorded; 0: none.
    sample: u32,
    requests: Gate,
    /// Of its own, so that no flood of connections hides requests.
    connections: Gate,
    /// What the agent does by itself, as often as sources make it.
    automatic: Gate,
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
    let (operators, of_operators) = sync_channel(WAITING_OF_OPERATORS);
    let thread = thread::Builder::new()
        .name("audit".to_owned())
        .spawn(move || writer.run(&messages, &of_operators))
        .map_err(AuditError::Thread)?;
    let start = Instant::now();
    let gate = || Gate {
        per_second: config.per_second.get(),
        start,
        state: AtomicU64::new(0),
    };
    let audit = Audit(Arc::new(Inner {
        queue: queue.clone(),
        operators,
        sample: config.sample,
        requests: gate(),
        connections: gate(),
        automatic: gate(),
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

    /// Records what the agent or its operator has done. There may be too many of what the agent does by itself.
    pub fn event(&self, event: &Event<'_>) {
        if event.is_automatic() {
            self.bounded(&self.0.automatic, || line(event));
        } else if self.0.operators.try_send(line(event)).is_err() {
            self.0.counts.dropped.inc();
        }
    }

    fn send(&self, line: Vec<u8>) {
        if self.0.queue.try_send(Message::Line(line)).is_err() {
            self.0.counts.dropped.inc();
        }
    }
}

impl AuditThread {
    /// Writes what waits, until `deadline` at most: the disk may not answer. Whether all of it was written.
    pub fn stop(self, deadline: Instant) -> bool {
        let mut told = false;
        while Instant::now() < deadline {
            told = told || self.queue.try_send(Message::Stop).is_ok();
            if self.thread.is_finished() {
                return true;
            }
            thread::sleep(POLL);
        }
        tracing::error!("the audit log cannot be written: what waits for it is lost");
        false
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
    use enforcer_common::verdict::Reason;

    use super::*;

    /// A writer that is stuck keeps nobody, and a crowd of automatic denials and requests takes no place of operators'.
    #[test]
    fn operators_actions_have_a_queue_of_their_own() {
        let counts = Counts::new(&Registry::new()).unwrap();
        let (queue, messages) = sync_channel(2);
        let (operators, of_operators) = sync_channel(2);
        let gate = |per_second| Gate {
            per_second,
            start: Instant::now(),
            state: AtomicU64::new(0),
        };
        let audit = Audit(Arc::new(Inner {
            queue,
            operators,
            sample: 0,
            requests: gate(100),
            connections: gate(100),
            automatic: gate(3),
            counts: counts.clone(),
        }));
        let denied = |by| Event::Denied {
            prefix: "192.0.2.1/32".parse().unwrap(),
            by,
            operator: None,
            reason: "test",
            seconds: 1,
        };
        for _ in 0..5 {
            audit.request(|| b"request\n".to_vec());
            audit.event(&denied("denied-for-authentication"));
        }
        audit.event(&denied(Reason::DeniedByOperator.name()));
        audit.event(&Event::DenialEnded {
            prefix: "192.0.2.1/32".parse().unwrap(),
            operator: Some("alice"),
        });
        assert_eq!(messages.try_iter().count(), 2);
        assert_eq!(of_operators.try_iter().count(), 2);
        assert!(counts.over_rate.get() >= 1, "automatic denials have a rate");
        assert_eq!(counts.dropped.get() + counts.over_rate.get(), 8);
    }

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
