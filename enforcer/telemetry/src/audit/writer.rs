//! Writes the audit log.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt, OpenOptionsExt},
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
/// How far back the begin of a half-written line is looked for: records are far shorter.
const LONGEST_HALF: u64 = 1 << 20;

/// Owns the file.
pub(super) struct Writer {
    sink: Sink,
    /// Whole lines that are not written yet, and how many.
    buffer: Vec<u8>,
    lines: u64,
    counts: Counts,
    /// The last attempt has failed, which has been said.
    failing: bool,
    /// Standard output has got a part of a line.
    torn: bool,
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
            torn: false,
        })
    }

    /// Until it is told to stop, or nobody is left.
    pub(super) fn run(mut self, messages: &Receiver<Message>, of_operators: &Receiver<Vec<u8>>) {
        let mut due = Instant::now() + PERIOD;
        loop {
            let message = messages.recv_timeout(due.saturating_duration_since(Instant::now()));
            // Those of operators wait for `due` at most, and are written before what has come with them.
            self.take_some(of_operators);
            match message {
                Ok(Message::Line(line)) => self.take(&line),
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
            self.take(&line);
        }
        while !self.buffer.is_empty() || self.take_some(of_operators) {
            self.write_out();
        }
    }

    /// Until a buffer is full. Whether there was any.
    fn take_some(&mut self, lines: &Receiver<Vec<u8>>) -> bool {
        let before = self.lines;
        while self.buffer.len() < BUFFER
            && let Ok(line) = lines.try_recv()
        {
            self.take(&line);
        }
        self.lines > before
    }

    fn take(&mut self, line: &[u8]) {
        self.buffer.extend_from_slice(line);
        self.lines += 1;
    }

    fn write_out(&mut self) {
        let written = match &mut self.sink {
            _ if self.buffer.is_empty() => return,
            Sink::Stdout => {
                let mut out = io::stdout().lock();
                let whole = if self.torn { out.write_all(b"\n") } else { Ok(()) };
                let written = whole
                    .and_then(|()| out.write_all(&self.buffer))
                    .and_then(|()| out.flush());
                self.torn = written.is_err();
                written
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
        if written.is_err() {
            // What was written of these lines is counted as lost, and goes. If it cannot, its last line is cut off when
            // the file is opened again.
            let _ = open.file.set_len(open.size);
            self.open = None;
        } else {
            open.size += more;
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
        // Opening a FIFO for writing would wait for a reader.
        let file = OpenOptions::new()
            .append(true)
            .read(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)?;
        let metadata = file.metadata()?;
        let kind = metadata.file_type();
        if kind.is_fifo() || kind.is_socket() {
            return Err(io::Error::other(
                "it is a FIFO or a socket: name a file, or write `audit: {stdout: true}`",
            ));
        }
        let size = if kind.is_file() {
            cut_half_line(&file, metadata.len())?
        } else {
            0
        };
        Ok(Self {
            file,
            size,
            identity: (metadata.dev(), metadata.ino()),
        })
    }

    fn is_at(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity)
    }
}

/// Takes away what stands behind the last line end: half a record, of an agent that was killed or of a disk that was
/// full. The file's length then.
fn cut_half_line(file: &File, size: u64) -> io::Result<u64> {
    let from = size.saturating_sub(LONGEST_HALF);
    let mut tail = vec![0; usize::try_from(size - from).unwrap_or_default()];
    file.read_exact_at(&mut tail, from)?;
    if tail.last().is_none_or(|last| *last == b'\n') {
        return Ok(size);
    }
    let whole = match tail.iter().rposition(|byte| *byte == b'\n') {
        Some(end) => Some(from + end as u64 + 1),
        None => (from == 0).then_some(0),
    };
    let Some(whole) = whole.filter(|whole| file.set_len(*whole).is_ok()) else {
        // It cannot be cut off: then it is a line of its own.
        (&*file).write_all(b"\n")?;
        return Ok(size + 1);
    };
    tracing::warn!(
        bytes = size - whole,
        "half a record at the end of the audit log was cut off"
    );
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_with(text: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn f7_half_a_record_is_cut_off_before_the_next() {
        for (before, after) in [
            (&b""[..], &b""[..]),
            (b"{\"a\":1}\n", b"{\"a\":1}\n"),
            (b"{\"a\":1}\n{\"b", b"{\"a\":1}\n"),
            (b"{\"b", b""),
        ] {
            let (_folder, path) = file_with(before);
            let mut open = Open::at(&path).unwrap();
            assert_eq!(open.size, after.len() as u64);
            open.file.write_all(b"next\n").unwrap();
            assert_eq!(fs::read(&path).unwrap(), [after, b"next\n"].concat());
        }
    }

    #[test]
    fn a_fifo_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        assert!(Open::at(&path).is_err());
    }
}
