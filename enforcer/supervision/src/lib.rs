//! Which parts of the process make progress, and what is said where one does not.
//!
//! Each part (the controller, the thread that applies policies, each worker of the gateway, the admin address) holds a
//! [`Part`] and says at least once a second that it is there. One thread, the [`supervisor`], looks at all of them. A part
//! that hangs may come back, for instance with its disk: it is named by `/healthz`, the log and a metric, and whoever
//! supervises the process restarts it. A part that has panicked never comes back, so the process ends by itself.
//!
//! Nothing here waits: progress is an atomic, and the list of parts is read without a lock.

#![forbid(unsafe_code)]

pub mod faults;
pub mod notify;
mod reading;
pub mod supervisor;
pub mod sync;

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use prometheus::{IntCounter, IntGaugeVec, Opts, Registry};

pub use self::reading::Reader;

/// How long a part may make no progress.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The parts of a process; clones stand for the same.
#[derive(Clone, Debug)]
pub struct Parts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    began: Instant,
    parts: ArcSwap<Vec<Arc<State>>>,
    readers: ArcSwap<Vec<Arc<reading::State>>>,
    /// When the supervisor has looked last, in milliseconds since the begin.
    looked: AtomicU64,
    supervised: AtomicBool,
    /// What has failed first.
    failure: ArcSwapOption<String>,
    /// Parts end because they are told to.
    stopping: AtomicBool,
    panics: AtomicU64,
}

#[derive(Debug)]
struct State {
    name: String,
    /// Counts up.
    progress: AtomicU64,
    condition: AtomicU8,
    /// As it should.
    ended: AtomicBool,
}

/// How a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Sound,
    /// No progress for [`PATIENCE`].
    Stalled,
    /// It has panicked, or ended without being told to.
    Failed,
}

/// A part's own handle. Dropping it without [`Self::end`] says that the part has failed.
#[derive(Debug, Default)]
#[must_use = "dropping it says that the part has failed"]
pub struct Part(Option<(Parts, Arc<State>)>);

/// Held by a task of a part that must not end by a panic.
#[derive(Debug)]
pub struct Guard(Option<(Parts, Arc<State>)>);

/// The metrics of supervision.
#[derive(Clone, Debug)]
pub struct PartMetrics {
    stalled: IntGaugeVec,
    unread: IntGaugeVec,
    panics: IntCounter,
}

thread_local! {
    /// The part whose thread this is.
    static HERE: RefCell<Option<Arc<State>>> = const { RefCell::new(None) };
}

/// Says that the part whose thread this is makes progress, if it is one's.
pub fn progress() {
    HERE.with_borrow(|here| {
        if let Some(state) = here {
            state.progress.fetch_add(1, Ordering::Relaxed);
        }
    });
}

impl Default for Parts {
    fn default() -> Self {
        Self(Arc::new(Inner {
            began: Instant::now(),
            parts: ArcSwap::default(),
            readers: ArcSwap::default(),
            looked: AtomicU64::new(0),
            supervised: AtomicBool::new(false),
            failure: ArcSwapOption::empty(),
            stopping: AtomicBool::new(false),
            panics: AtomicU64::new(0),
        }))
    }
}

impl State {
    fn condition(&self) -> Condition {
        match self.condition.load(Ordering::Acquire) {
            0 => Condition::Sound,
            1 => Condition::Stalled,
            _ => Condition::Failed,
        }
    }

    /// A failed part stays so. Whether this is news.
    fn set(&self, condition: Condition) -> bool {
        let before = self.condition.fetch_max(condition as u8, Ordering::AcqRel);
        if condition == Condition::Sound && before == Condition::Stalled as u8 {
            let (stalled, sound) = (Condition::Stalled as u8, Condition::Sound as u8);
            return self
                .condition
                .compare_exchange(stalled, sound, Ordering::AcqRel, Ordering::Acquire)
                .is_ok();
        }
        before < condition as u8
    }
}

impl Parts {
    /// A new part, of which the supervisor expects progress from now on.
    pub fn part(&self, name: impl Into<String>) -> Part {
        let state = Arc::new(State {
            name: name.into(),
            progress: AtomicU64::new(0),
            condition: AtomicU8::new(Condition::Sound as u8),
            ended: AtomicBool::new(false),
        });
        self.0.parts.rcu(|parts| {
            let mut parts = Vec::clone(parts);
            parts.push(Arc::clone(&state));
            parts
        });
        Part(Some((self.clone(), state)))
    }

    /// What is wrong, in a line for each part; empty while all is well.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        let mut troubles: Vec<String> = self
            .0
            .parts
            .load()
            .iter()
            .filter_map(|part| match part.condition() {
                Condition::Sound => None,
                Condition::Stalled => Some(format!("{}: no progress for {PATIENCE:?}", part.name)),
                Condition::Failed => Some(format!("{}: has panicked or ended", part.name)),
            })
            .collect();
        if let Some(failure) = self.failure() {
            troubles.push(format!("the agent ends: {failure}"));
        }
        if self.0.supervised.load(Ordering::Acquire) && self.since_look() > PATIENCE {
            troubles.push(format!("supervisor: no progress for {PATIENCE:?}"));
        }
        troubles
    }

    /// Says which of them wait for their disk.
    pub fn watch_reader(&self, reader: &Reader) {
        self.0.readers.rcu(|readers| {
            let mut readers = Vec::clone(readers);
            readers.push(reader.state());
            readers
        });
    }

    /// What is read for longer than [`PATIENCE`]: its disk does not answer, and changes there are not seen.
    #[must_use]
    pub fn unread(&self) -> Vec<&'static str> {
        let readers = self.0.readers.load();
        let waiting = readers.iter().filter(|reader| reader.waits());
        waiting.map(|reader| reader.what()).collect()
    }

    /// Whether every part makes progress.
    #[must_use]
    pub fn are_sound(&self) -> bool {
        self.troubles().is_empty()
    }

    /// What will never come back: why the process has to end.
    #[must_use]
    pub fn failure(&self) -> Option<Arc<String>> {
        self.0.failure.load_full()
    }

    /// Says that something has failed for good. While the process stops, it is only logged.
    pub fn fail(&self, why: &str) {
        if self.0.stopping.load(Ordering::Acquire) {
            tracing::error!(%why, "failed while the agent stops");
            return;
        }
        tracing::error!(%why, "a part of the agent has failed; the agent ends, to be started again");
        let why = Arc::new(why.to_owned());
        // The first is what the others may come of.
        self.0
            .failure
            .rcu(|known| Some(known.clone().unwrap_or_else(|| Arc::clone(&why))));
    }

    /// Says that parts end from now on because they are told to.
    pub fn stop(&self) {
        self.0.stopping.store(true, Ordering::Release);
    }

    /// Counts a panic, and says whether it is one of a thread that nothing else looks after. Workers of the gateway and
    /// handlers of the admin address lose the connection on which they panic and go on; tasks that they cannot do without
    /// hold a [`Guard`].
    fn panicked(&self, thread: &str) -> bool {
        self.0.panics.fetch_add(1, Ordering::Relaxed);
        let worker = thread.strip_prefix("gateway-").map(str::parse::<usize>);
        !(matches!(worker, Some(Ok(_))) || thread == "admin")
    }

    /// Logs and counts each panic of the process, and ends it where a thread is lost by it that nothing replaces. The
    /// hook of the standard library would write to standard error, which may block.
    pub fn watch_panics(&self) {
        let parts = self.clone();
        std::panic::set_hook(Box::new(move |panic| {
            let thread = thread::current();
            let thread = thread.name().unwrap_or("unnamed");
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            let what = panic.payload_as_str().unwrap_or("no message");
            tracing::error!(thread, place, what, "panic");
            if parts.panicked(thread) {
                parts.fail(&format!("thread `{thread}` has panicked at {place}: {what}"));
            }
        }));
    }

    /// Registers what is said of parts.
    ///
    /// # Errors
    /// A name is taken.
    pub fn metrics(&self, registry: &Registry) -> Result<PartMetrics, prometheus::Error> {
        let stalled = IntGaugeVec::new(
            Opts::new(
                "enforcer_part_stalled",
                "1 while a part of the agent makes no progress, or has failed.",
            ),
            &["part"],
        )?;
        let panics = IntCounter::new(
            "enforcer_panics_total",
            "Panics of threads and tasks of the agent.",
        )?;
        let unread = IntGaugeVec::new(
            Opts::new(
                "enforcer_files_unread",
                "1 while the disk of these files does not answer, so that changes of them are not seen.",
            ),
            &["files"],
        )?;
        registry.register(Box::new(stalled.clone()))?;
        registry.register(Box::new(unread.clone()))?;
        registry.register(Box::new(panics.clone()))?;
        Ok(PartMetrics {
            stalled,
            unread,
            panics,
        })
    }

    fn show(&self, metrics: &PartMetrics) {
        for part in self.0.parts.load().iter() {
            metrics
                .stalled
                .with_label_values(&[&part.name])
                .set(i64::from(part.condition() != Condition::Sound));
        }
        for reader in self.0.readers.load().iter() {
            let waits = i64::from(reader.waits());
            metrics.unread.with_label_values(&[reader.what()]).set(waits);
        }
        let panics = self.0.panics.load(Ordering::Relaxed);
        metrics.panics.inc_by(panics.saturating_sub(metrics.panics.get()));
    }

    fn looked(&self) {
        self.0.looked.store(self.now(), Ordering::Release);
        self.0.supervised.store(true, Ordering::Release);
    }

    fn since_look(&self) -> Duration {
        Duration::from_millis(self.now().saturating_sub(self.0.looked.load(Ordering::Acquire)))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn lost(&self, state: &State) {
        if self.0.stopping.load(Ordering::Acquire) || state.ended.load(Ordering::Acquire) {
            return;
        }
        if state.set(Condition::Failed) {
            self.fail(&format!("{} has panicked or ended", state.name));
        }
    }

    fn forget(&self, state: &Arc<State>) {
        self.0.parts.rcu(|parts| {
            let mut parts = Vec::clone(parts);
            parts.retain(|each| !Arc::ptr_eq(each, state));
            parts
        });
    }
}

impl Part {
    /// One that nobody looks at.
    pub fn unwatched() -> Self {
        Self(None)
    }

    /// Says that the part makes progress. Also the place where tests make it hang or panic: see [`faults`].
    pub fn beat(&self) {
        let Some((_, state)) = &self.0 else { return };
        faults::point(&state.name);
        state.progress.fetch_add(1, Ordering::Relaxed);
    }

    /// For a task that the part cannot do without: if it panics, the part has failed.
    #[must_use]
    pub fn guard(&self) -> Guard {
        Guard(self.0.clone())
    }

    /// Says that this thread is the part's own, so that what it gets done counts: see [`progress`].
    pub fn is_here(&self) {
        let state = self.0.as_ref().map(|(_, state)| Arc::clone(state));
        HERE.set(state);
    }

    /// Says that the part ends as it should.
    pub fn end(&self) {
        if let Some((parts, state)) = &self.0 {
            state.ended.store(true, Ordering::Release);
            parts.forget(state);
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some((parts, state)) = &self.0 {
            parts.lost(state);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some((parts, state)) = &self.0
            && thread::panicking()
        {
            parts.lost(state);
        }
    }
}

/// Runs a task that a part cannot do without.
pub async fn guarded<F: Future>(guard: Guard, task: F) -> F::Output {
    let _guard = guard;
    task.await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_is_dropped_has_failed_and_one_that_finishes_has_not() {
        let parts = Parts::default();
        parts.part("worker").end();
        assert!(parts.are_sound() && parts.failure().is_none());
        drop(parts.part("controller"));
        assert_eq!(
            parts.troubles(),
            [
                "controller: has panicked or ended",
                "the agent ends: controller has panicked or ended"
            ]
        );
        drop(parts.part("another"));
        assert_eq!(
            parts.failure().unwrap().as_str(),
            "controller has panicked or ended"
        );
    }

    #[test]
    fn what_ends_while_the_process_stops_has_not_failed() {
        let parts = Parts::default();
        let part = parts.part("controller");
        parts.stop();
        drop(part);
        assert!(parts.are_sound() && parts.failure().is_none());
    }

    /// A task's panic is caught by its runtime: the guard alone tells.
    #[tokio::test]
    async fn the_panic_of_a_guarded_task_is_noticed() {
        let parts = Parts::default();
        let part = parts.part("gateway-0");
        let ends = tokio::spawn(guarded(part.guard(), async {}));
        ends.await.unwrap();
        assert!(parts.are_sound());
        let panics = tokio::spawn(guarded(part.guard(), async { panic!("on purpose") }));
        assert!(panics.await.unwrap_err().is_panic());
        assert!(!parts.are_sound());
        assert_eq!(
            parts.failure().unwrap().as_str(),
            "gateway-0 has panicked or ended"
        );
        part.end();
    }

    #[test]
    fn connections_end_by_a_panic_and_other_threads_the_process() {
        let parts = Parts::default();
        assert!(!parts.panicked("gateway-3") && !parts.panicked("admin"));
        assert!(parts.panicked("controller") && parts.panicked("gateway-control"));
        let registry = Registry::new();
        let metrics = parts.metrics(&registry).unwrap();
        parts.show(&metrics);
        assert_eq!(metrics.panics.get(), 4);
    }
}
