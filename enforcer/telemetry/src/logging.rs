//! The log: lines go through a bounded queue to a thread that writes them to standard error, so that nobody waits who
//! logs, whoever reads standard error or does not.

use std::{
    io::{self, Write},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use tracing::Level;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait to be written, and their bytes together.
const WAITING: usize = 4096;
const WAITING_BYTES: usize = 4 << 20;

/// How often is looked whether the thread has ended.
const POLL: Duration = Duration::from_millis(5);

/// Takes lines; clones stand for the same queue.
#[derive(Clone, Debug)]
pub struct Lines(Arc<Queue>);

#[derive(Debug)]
struct Queue {
    lines: SyncSender<Message>,
    bytes: AtomicUsize,
    counts: Counts,
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    Stop,
}

/// What became of lines.
#[derive(Debug)]
struct Counts {
    all: IntCounterVec,
    written: IntCounter,
    /// The queue was full.
    dropped: IntCounter,
    /// Standard error refused.
    failed: IntCounter,
}

/// The thread that writes.
#[derive(Debug)]
pub struct Log {
    lines: Lines,
    thread: JoinHandle<()>,
}

/// Changes which lines are written while the process runs; clones stand for the same.
#[derive(Clone)]
pub struct Verbosity(Arc<dyn Fn(Level) + Send + Sync>);

impl Verbosity {
    /// `set` is told of each new level.
    pub fn new(set: impl Fn(Level) + Send + Sync + 'static) -> Self {
        Self(Arc::new(set))
    }

    /// Writes lines of this level and more urgent ones, unless the environment says otherwise.
    pub fn set(&self, level: Level) {
        (self.0)(level);
    }
}

/// The process's log, once it is set up.
static LOG: OnceLock<Lines> = OnceLock::new();

impl Lines {
    /// Starts to write to `out`. `prepare` is run on the thread before all else.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(
        out: impl Write + Send + 'static,
        prepare: impl FnOnce() + Send + 'static,
    ) -> io::Result<(Self, Log)> {
        let (sender, messages) = sync_channel(WAITING);
        let counts = Counts::new().map_err(io::Error::other)?;
        let lines = Self(Arc::new(Queue {
            lines: sender,
            bytes: AtomicUsize::new(0),
            counts,
        }));
        let queue = lines.clone();
        let run = move || {
            prepare();
            queue.write(&messages, out);
        };
        let thread = thread::Builder::new().name("log".to_owned()).spawn(run)?;
        let log = Log {
            lines: lines.clone(),
            thread,
        };
        Ok((lines, log))
    }

    /// Queues a line, or drops and counts it.
    fn send(&self, line: &[u8]) {
        let queue = &self.0;
        let waiting = queue.bytes.fetch_add(line.len(), Ordering::Relaxed);
        if waiting + line.len() > WAITING_BYTES || queue.lines.try_send(Message::Line(line.to_vec())).is_err()
        {
            queue.bytes.fetch_sub(line.len(), Ordering::Relaxed);
            queue.counts.dropped.inc();
        }
    }

    fn write(&self, messages: &Receiver<Message>, mut out: impl Write) {
        while let Ok(Message::Line(line)) = messages.recv() {
            self.0.bytes.fetch_sub(line.len(), Ordering::Relaxed);
            match out.write_all(&line).and_then(|()| out.flush()) {
                Ok(()) => self.0.counts.written.inc(),
                // There is nobody to tell but the metric.
                Err(_) => self.0.counts.failed.inc(),
            }
        }
    }

    /// Makes these the process's log, whose counts [`register`] shows.
    pub fn install(&self) {
        LOG.get_or_init(|| self.clone());
    }
}

/// Registers what became of the log's lines. Without a log there is nothing to show.
///
/// # Errors
/// The name is taken.
pub fn register(registry: &Registry) -> Result<(), prometheus::Error> {
    LOG.get().map_or(Ok(()), |lines| {
        registry.register(Box::new(lines.0.counts.all.clone()))
    })
}

impl Log {
    /// Writes what waits, until `deadline` at most. Whether all of it was written.
    pub fn stop(self, deadline: Instant) -> bool {
        let mut told = false;
        while Instant::now() < deadline {
            told = told || self.lines.0.lines.try_send(Message::Stop).is_ok();
            if self.thread.is_finished() {
                return true;
            }
            thread::sleep(POLL);
        }
        false
    }
}

impl Counts {
    fn new() -> Result<Self, prometheus::Error> {
        let all = IntCounterVec::new(
            Opts::new(
                "enforcer_log_lines_total",
                "Lines of the agent's log, by what became of them.",
            ),
            &["result"],
        )?;
        let count = |result| all.with_label_values(&[result]);
        Ok(Self {
            written: count("written"),
            dropped: count("dropped"),
            failed: count("failed"),
            all,
        })
    }
}

/// Each event is written as one line.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.send(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    /// Standard error that nobody reads, until somebody does.
    struct Stuck(Receiver<()>, std::sync::mpsc::Sender<Vec<u8>>);

    impl Write for Stuck {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            self.1.send(line.to_vec()).unwrap();
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_who_does_not_read_and_what_is_lost_is_counted() {
        let (release, wait) = channel();
        let (out, read) = channel();
        let (mut lines, log) = Lines::start(Stuck(wait, out), || {}).unwrap();
        let many = WAITING + 100;
        for number in 0..many {
            lines.write_all(format!("{number}\n").as_bytes()).unwrap();
        }
        let dropped = lines.0.counts.dropped.get();
        // One may have left the queue already.
        assert!((99..=100).contains(&dropped), "{dropped}");
        drop(release);
        assert!(log.stop(Instant::now() + Duration::from_secs(60)));
        assert_eq!(lines.0.counts.written.get() + dropped, many as u64);
        assert_eq!(read.iter().next().unwrap(), b"0\n");
        assert_eq!(lines.0.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn long_lines_are_bounded_by_their_bytes() {
        let (release, wait) = channel();
        let (out, _read) = channel();
        let (mut lines, log) = Lines::start(Stuck(wait, out), || {}).unwrap();
        let line = vec![b'x'; WAITING_BYTES / 4];
        for _ in 0..20 {
            lines.write_all(&line).unwrap();
        }
        assert!(lines.0.counts.dropped.get() >= 15);
        assert!(!log.stop(Instant::now()), "it does not wait for ever");
        drop(release);
    }
}
