//! The thread that applies changed policies, one after the other: nobody else waits for it.

use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::{
    runtime::Builder,
    sync::{Notify, mpsc},
    time::{MissedTickBehavior, interval},
};

use super::state::Shared;
use enforcer_policy::watch::Outcome;
use enforcer_supervision::Part;
use enforcer_sys::memory;

/// How often it says that it is there while nothing changes.
const BEAT: Duration = Duration::from_millis(500);

/// How often is looked whether it has ended.
const POLL: Duration = Duration::from_millis(5);

/// The running thread.
pub struct Applying {
    stop: Arc<Notify>,
    thread: JoinHandle<()>,
}

/// Applies what comes out of `changes` until nobody sends any more.
///
/// # Errors
/// There is no thread to be had.
pub fn start(shared: Arc<Shared>, mut changes: mpsc::Receiver<Outcome>, part: Part) -> io::Result<Applying> {
    let runtime = Builder::new_current_thread().enable_time().build()?;
    let stop = Arc::new(Notify::new());
    let stopped = Arc::clone(&stop);
    let apply = async move {
        // Large lists take longer than a beat: each table that is written is progress.
        part.is_here();
        let mut ticks = interval(BEAT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // Who is to stop applies nothing that waits.
                biased;
                () = stopped.notified() => break,
                outcome = changes.recv() => match outcome {
                    Some(outcome) => take(&shared, outcome),
                    None => break,
                },
                _ = ticks.tick() => {}
            }
            part.beat();
        }
        part.end();
    };
    let thread = thread::Builder::new()
        .name("policies".to_owned())
        .spawn(move || runtime.block_on(apply))?;
    Ok(Applying { stop, thread })
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
        self.stop.notify_one();
        while !self.thread.is_finished() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        self.thread.is_finished()
    }
}
