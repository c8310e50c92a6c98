//! Writes the audit log.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use super::{
    AuditError, Counts, Message,
    config::{AuditConfig, Destination},
};

/// How long a line may wait to be written out, and how often is looked whether the file is still there.
const PERIOD: Duration = Duration::from_millis(500);
/// Bytes that are collected before they are written.
const BUFFER: usize = 64 * 1024;

/// Owns the file.
pub(super) struct Writer {
    sink: Sink,
    /// Whole lines that are not written yet, and how many.
    buffer: Vec<u8>,
    lines: u64,
    counts: Counts,
    /// The last attempt has failed, which has been said.
    failing: bool,
}

enum Sink {
    Stdout,
    File(Rotating),
}

/// A file that is put aside when it is full.
struct Rotating {
    path: PathBuf,
    max_size: u64,
    keep: u32,
    /// `None`: it could not be opened, and is tried again.
    open: Option<Open>,
}

struct Open {
    file: File,
    size: u64,
    /// Device and number, to find out whether the file has been moved away.
    identity: (u64, u64),
}

impl Writer {
    pub(super) fn open(config: &AuditConfig, counts: Counts) -> Result<Self, AuditError> {
        let sink = match &config.to {
            Destination::Stdout => Sink::Stdout,
            Destination::File { path, max_size, keep } => Sink::File(Rotating {
                open: Some(Open::at(path).map_err(|source| AuditError::Open {
                    file: path.display().to_string(),
                    source,
                })?),
                path: path.clone(),
                max_size: *max_size,
                keep: *keep,
            }),
        };
        Ok(Self {
            sink,
            buffer: Vec::new(),
            lines: 0,
            counts,
            failing: false,
        })
    }

    /// Until it is told to stop, or nobody is left.
    pub(super) fn run(mut self, messages: &Receiver<Message>) {
        let mut due = Instant::now() + PERIOD;
        loop {
            let message = messages.recv_timeout(due.saturating_duration_since(Instant::now()));
            match message {
                Ok(Message::Line(line)) => {
                    self.buffer.extend_from_slice(&line);
                    self.lines += 1;
                }
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.buffer.len() >= BUFFER || Instant::now() >= due {
                self.write_out();
                due = Instant::now() + PERIOD;
            }
        }
        // Those that were told before.
        while let Ok(Message::Line(line)) = messages.try_recv() {
            self.buffer.extend_from_slice(&line);
            self.lines += 1;
        }
        self.write_out();
    }

    fn write_out(&mut self) {
        let written = match &mut self.sink {
            _ if self.buffer.is_empty() => return,
            Sink::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(&self.buffer).and_then(|()| out.flush())
            }
            Sink::File(file) => file.write(&self.buffer),
        };
        match written {
            Ok(()) => {
                self.counts.written.inc_by(self.lines);
                self.failing = false;
            }
            Err(error) => {
                self.counts.failed.inc_by(self.lines);
                if !self.failing {
                    tracing::error!(%error, "the audit log cannot be written; its records are lost and counted");
                }
                self.failing = true;
            }
        }
        self.buffer.clear();
        self.lines = 0;
    }
}

impl Rotating {
    /// Writes whole lines, into the file that is at the path now.
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.open.as_ref().is_some_and(|open| !open.is_at(&self.path)) {
            self.open = None;
        }
        let more = lines.len() as u64;
        if self
            .open
            .as_ref()
            .is_some_and(|open| open.size > 0 && open.size + more > self.max_size)
        {
            self.put_aside()?;
        }
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(Open::at(&self.path)?),
        };
        let written = open.file.write_all(lines);
        open.size += more;
        if written.is_err() {
            self.open = None;
        }
        written
    }

    /// The file becomes `.1`, that `.2`, and so on; the last one goes.
    fn put_aside(&mut self) -> io::Result<()> {
        self.open = None;
        for number in (1..self.keep).rev() {
            rename_if_there(&self.aside(number), &self.aside(number + 1))?;
        }
        rename_if_there(&self.path, &self.aside(1))
    }

    fn aside(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)?;
        let metadata = file.metadata()?;
        Ok(Self {
            file,
            size: metadata.len(),
            identity: (metadata.dev(), metadata.ino()),
        })
    }

    fn is_at(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity)
    }
}
