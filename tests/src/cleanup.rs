//! What must not outlive this process: processes, namespaces, mounts, folders.
//!
//! Each owner removes its own on drop, which also covers panics. A signal drops nothing; so owners
//! register here what they hold, and the thread that waits for SIGINT and SIGTERM removes it.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex, MutexGuard, Once, PoisonError,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::{bpffs, sys};

/// What a shell reports for a program that SIGINT ended.
const EXIT_INTERRUPTED: i32 = 130;

/// How long processes may take to end when asked.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

static LIVE: Mutex<Live> = Mutex::new(Live::new());

struct Live {
    namespaces: BTreeSet<String>,
    processes: BTreeSet<u32>,
    folders: BTreeSet<PathBuf>,
    mounts: BTreeSet<PathBuf>,
    /// A signal came: nothing new may be made.
    closed: bool,
    /// Who wants to hear of the first signal instead of being ended by it.
    waiting: Option<Sender<()>>,
}

impl Live {
    const fn new() -> Self {
        Self {
            namespaces: BTreeSet::new(),
            processes: BTreeSet::new(),
            folders: BTreeSet::new(),
            mounts: BTreeSet::new(),
            closed: false,
            waiting: None,
        }
    }

    fn remove_all(&mut self) {
        self.closed = true;
        end_processes(&std::mem::take(&mut self.processes));
        for namespace in std::mem::take(&mut self.namespaces) {
            if let Err(error) = delete_namespace(&namespace) {
                eprintln!("lab: {error:#}");
            }
        }
        for mount in std::mem::take(&mut self.mounts) {
            let removed = bpffs::unmount(&mount).and_then(|()| Ok(std::fs::remove_dir(&mount)?));
            if let Err(error) = removed {
                eprintln!("lab: {} was not unmounted: {error:#}", mount.display());
            }
        }
        for folder in std::mem::take(&mut self.folders) {
            if let Err(error) = std::fs::remove_dir_all(&folder) {
                eprintln!("lab: {} was not removed: {error}", folder.display());
            }
        }
    }
}

/// Starts the thread that cleans up on SIGINT and SIGTERM, once for the process.
pub fn on_signals() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let started = thread::Builder::new().name("signals".to_owned()).spawn(|| {
            if let Err(error) = watch_signals() {
                eprintln!("lab: signals are not handled, Ctrl-C may leave namespaces behind: {error:#}");
            }
        });
        if let Err(error) = started {
            eprintln!("lab: signals are not handled, Ctrl-C may leave namespaces behind: {error}");
        }
    });
}

/// Makes the next SIGINT or SIGTERM end the wait on the receiver rather than the process.
#[must_use]
pub fn interrupts() -> Receiver<()> {
    let (sender, receiver) = mpsc::channel();
    live().waiting = Some(sender);
    receiver
}

pub(crate) fn add_namespace(name: &str) -> Result<()> {
    let mut live = open()?;
    live.namespaces.insert(name.to_owned());
    Ok(())
}

pub(crate) fn remove_namespace(name: &str) -> Result<()> {
    if live().namespaces.remove(name) {
        delete_namespace(name)?;
    }
    Ok(())
}

/// Starts `command` and registers its process under one lock, so that no signal falls between.
pub(crate) fn spawn(command: &mut Command) -> Result<std::process::Child> {
    let mut live = open()?;
    let child = command
        .spawn()
        .with_context(|| format!("{} did not start", command.get_program().display()))?;
    live.processes.insert(child.id());
    Ok(child)
}

/// To be called once the process has been waited for.
pub(crate) fn forget_process(pid: u32) {
    live().processes.remove(&pid);
}

pub(crate) fn add_mount(folder: &Path) {
    live().mounts.insert(folder.to_owned());
}

pub(crate) fn remove_mount(folder: &Path) -> Result<()> {
    if live().mounts.remove(folder) {
        bpffs::unmount(folder)?;
    }
    Ok(())
}

pub(crate) fn add_folder(path: &Path) {
    live().folders.insert(path.to_owned());
}

pub(crate) fn forget_folder(path: &Path) {
    live().folders.remove(path);
}

pub(crate) fn delete_namespace(name: &str) -> Result<()> {
    crate::netns::ip(&["netns", "delete", name])
}

/// First their way, so that they take with them what they have pinned; then by force.
fn end_processes(processes: &BTreeSet<u32>) {
    // Any of them may have ended by itself.
    for process in processes {
        let _ = sys::send_signal(*process, libc::SIGTERM);
    }
    let deadline = Instant::now() + PATIENCE;
    while processes.iter().copied().any(runs) && Instant::now() < deadline {
        thread::sleep(POLL);
    }
    for process in processes {
        let _ = sys::send_signal(*process, libc::SIGKILL);
    }
}

/// Whether the process runs; one that ended and nobody has waited for does not.
fn runs(process: u32) -> bool {
    // `pid (name) state …`, and the name may hold anything.
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.trim_start().chars().next())
        .is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

fn watch_signals() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if live()
                .waiting
                .take()
                .is_some_and(|waiting| waiting.send(()).is_ok())
            {
                continue;
            }
            eprintln!("lab: interrupted, cleaning up");
            live().remove_all();
            std::process::exit(EXIT_INTERRUPTED);
        }
    })
}

fn open() -> Result<MutexGuard<'static, Live>> {
    let live = live();
    if live.closed {
        bail!("interrupted");
    }
    Ok(live)
}

fn live() -> MutexGuard<'static, Live> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn processes_are_asked_before_they_are_forced() {
        let mut willing = Command::new("sleep").arg("60").spawn().unwrap();
        let started = Instant::now();
        end_processes(&BTreeSet::from([willing.id()]));
        assert!(started.elapsed() < PATIENCE);
        assert_eq!(willing.wait().unwrap().signal(), Some(libc::SIGTERM));
    }

    #[test]
    fn a_process_that_has_ended_does_not_run() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert!(!runs(pid));
        assert!(runs(std::process::id()));
    }
}
