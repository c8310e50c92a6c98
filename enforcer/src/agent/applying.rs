//! The thread that applies changed policies, one after the other: nobody else waits for it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::{
    runtime::Builder,
    sync::{Notify, mpsc},
    time::{MissedTickBehavior, interval},
};

use super::state::Shared;
use crate::{kernel::memory, policy::watch::Outcome, supervision::Part};

/// How often it says that it is there while nothing changes.
const BEAT: Duration = Duration::from_millis(500);

/// How often is looked whether it has ended.
const POLL: Duration = Duration::from_millis(5);

/// The running thread.
pub struct Applying {
    stopped: Arc<Stopped>,
    thread: JoinHandle<()>,
}

/// Whether nothing more is to be applied.
#[derive(Default)]
struct Stopped {
    is_so: AtomicBool,
    told: Notify,
}

/// Applies what comes out of `changes` until nobody sends any more.
///
/// # Errors
/// There is no thread to be had.
pub fn start(shared: Arc<Shared>, mut changes: mpsc::Receiver<Outcome>, part: Part) -> io::Result<Applying> {
    let runtime = Builder::new_current_thread().enable_time().build()?;
    let stopped = Arc::new(Stopped::default());
    let stop = Arc::clone(&stopped);
    let apply = async move {
        // Large lists take longer than a beat: each table that is written is progress.
        part.is_here();
        let mut ticks = interval(BEAT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                outcome = changes.recv() => match outcome {
                    Some(outcome) if !stop.is_so.load(Ordering::Acquire) => take(&shared, outcome),
                    _ => break,
                },
                () = stop.told.notified() => break,
                _ = ticks.tick() => {}
            }
            part.beat();
        }
        part.end();
    };
    let thread = thread::Builder::new()
        .name("policies".to_owned())
        .spawn(move || runtime.block_on(apply))?;
    Ok(Applying { stopped, thread })
}

/// Writing large access lists takes a while.
fn take(shared: &Shared, outcome: Outcome) {
    let same = {
        let standing = shared.standing();
        matches!(&outcome, Ok(loaded) if loaded.digest == standing.digest) && standing.refused.is_none()
    };
    if !same {
        shared.changed(outcome);
        memory::give_back();
    }
}

impl Applying {
    /// Applies nothing more, and waits for what is under way until `deadline` at most. Whether it has ended.
    pub fn stop(self, deadline: Instant) -> bool {
        self.stopped.is_so.store(true, Ordering::Release);
        self.stopped.told.notify_one();
        while !self.thread.is_finished() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        self.thread.is_finished()
    }
}
