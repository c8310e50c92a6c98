//! Locks that tests hold to their rules: see "Threads and locks" in `docs/architecture.md`.
//!
//! There are two kinds. A [`Ranked`] lock protects memory, for as long as it takes to read or change it: whoever holds
//! one takes no other lock, makes no system call and does not await. A [`Serial`] lock puts system calls in order, and
//! may be held for as long as they take: no request and no worker of the gateway takes one, and neither does the
//! heartbeat. Locks are taken in the order of [`Rank`].
//!
//! In builds with debug assertions, which tests are, breaking a rule panics with the names of the locks, whether or not
//! another thread is in the way at that moment. Other builds have the plain mutex.

use std::{
    future::{Future, poll_fn},
    ops::{Deref, DerefMut},
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError, TryLockError},
};

use crate::progress;

/// The locks, in the order in which they may be taken. Serial ones come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Serial: one application of policies at a time.
    Apply,
    /// Serial: what is in force, for a change of a bounded number of entries.
    InForce,
    /// Serial: the node's part of SYN defence.
    Syn,
    /// Serial: a map that one thread writes at a time.
    Map,
    /// Who replaces the snapshot.
    Standing,
    /// Denials.
    Denials,
    /// Verified connections.
    Flows,
    /// Recently verified sources.
    Recents,
    /// Revoked connections.
    Revoked,
    /// The bits in front of access lists.
    Presence,
    /// The control block.
    Control,
    /// The latest events.
    Journal,
    /// The metrics of one scrape.
    Scrape,
    /// What is taken once.
    Once,
}

/// A lock about memory alone.
#[derive(Debug)]
pub struct Ranked<T> {
    rank: Rank,
    value: Mutex<T>,
}

/// A lock that puts system calls in order.
#[derive(Debug)]
pub struct Serial<T> {
    rank: Rank,
    value: Mutex<T>,
}

/// Access to what a lock protects.
#[clippy::has_significant_drop]
#[derive(Debug)]
pub struct Guard<'a, T> {
    _held: rules::Held,
    value: MutexGuard<'a, T>,
}

impl<T> Ranked<T> {
    /// Protects `value`.
    #[must_use]
    pub const fn new(rank: Rank, value: T) -> Self {
        Self {
            rank,
            value: Mutex::new(value),
        }
    }

    /// Waits for the lock, which nobody holds for long.
    ///
    /// # Panics
    /// In builds with debug assertions: this thread holds a lock that does not come before.
    pub fn lock(&self) -> Guard<'_, T> {
        let held = rules::take(self.rank, rules::Kind::Memory);
        Guard {
            _held: held,
            value: self.value.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

impl<T> Serial<T> {
    /// Protects `value`.
    #[must_use]
    pub const fn new(rank: Rank, value: T) -> Self {
        Self {
            rank,
            value: Mutex::new(value),
        }
    }

    /// Waits for the lock, as long as others' system calls take.
    ///
    /// # Panics
    /// In builds with debug assertions: this thread holds a lock that does not come before, or must not wait.
    pub fn lock(&self) -> Guard<'_, T> {
        let held = rules::take(self.rank, rules::Kind::Serial);
        Guard {
            _held: held,
            value: self.value.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

impl<T> Serial<T> {
    /// Takes the lock if nobody has it.
    ///
    /// # Panics
    /// As [`Self::lock`].
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        let held = rules::take(self.rank, rules::Kind::Serial);
        let value = match self.value.try_lock() {
            Ok(value) => value,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(Guard { _held: held, value })
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

/// To be called before a system call that may take its time, `what`. It is progress of the part whose thread this is.
///
/// # Panics
/// In builds with debug assertions: this thread holds a lock about memory, or is answering a request.
#[inline]
pub fn system_call(what: &'static str) {
    rules::system_call(what);
    progress();
}

/// Does what must wait for nobody's system calls: the heartbeat's and the gateway's work.
///
/// # Panics
/// In builds with debug assertions: `work` takes a [`Serial`] lock.
#[inline]
pub fn without_waiting<T>(work: impl FnOnce() -> T) -> T {
    let _here = rules::enter(rules::Place::MustNotWait);
    work()
}

/// Answers a request on a thread of the runtime, which has others to answer.
///
/// # Panics
/// In builds with debug assertions: `request` makes a system call, takes a [`Serial`] lock, or awaits with a lock.
pub async fn request<F: Future>(request: F) -> F::Output {
    let mut request = pin!(request);
    poll_fn(|context| {
        let _here = rules::enter(rules::Place::Request);
        let result = request.as_mut().poll(context);
        rules::awaits();
        result
    })
    .await
}

#[cfg(debug_assertions)]
mod rules {
    use std::cell::{Cell, RefCell};

    use super::Rank;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Kind {
        Memory,
        Serial,
    }

    /// Where a thread is.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Place {
        Anywhere,
        MustNotWait,
        Request,
    }

    thread_local! {
        static HELD: RefCell<Vec<(Rank, Kind)>> = const { RefCell::new(Vec::new()) };
        static PLACE: Cell<Place> = const { Cell::new(Place::Anywhere) };
    }

    /// A lock that this thread holds.
    #[derive(Debug)]
    pub struct Held {
        rank: Rank,
        // What one thread notes, another cannot take back.
        _here: std::marker::PhantomData<*const ()>,
    }

    pub fn take(rank: Rank, kind: Kind) -> Held {
        let place = PLACE.get();
        assert!(
            kind == Kind::Memory || place == Place::Anywhere,
            "{rank:?} is a lock across system calls, and this thread must not wait ({place:?})"
        );
        HELD.with_borrow_mut(|held| {
            for (other, other_kind) in held.iter() {
                assert!(
                    *other_kind == Kind::Serial && *other < rank,
                    "{rank:?} is taken while {other:?} is held, against the order of locks"
                );
            }
            held.push((rank, kind));
        });
        Held {
            rank,
            _here: std::marker::PhantomData,
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            HELD.with_borrow_mut(|held| {
                if let Some(at) = held.iter().rposition(|(rank, _)| *rank == self.rank) {
                    held.remove(at);
                }
            });
        }
    }

    pub fn system_call(what: &str) {
        assert!(
            PLACE.get() != Place::Request,
            "{what} is a system call, which holds up the thread that answers requests"
        );
        HELD.with_borrow(|held| {
            let memory = held.iter().find(|(_, kind)| *kind == Kind::Memory);
            assert!(
                memory.is_none(),
                "{what} is a system call, and {memory:?} is held"
            );
        });
    }

    pub fn awaits() {
        HELD.with_borrow(|held| assert!(held.is_empty(), "{held:?} is held across an await"));
    }

    /// Until it is dropped, this thread is there.
    pub struct Here {
        before: Place,
    }

    pub fn enter(place: Place) -> Here {
        Here {
            before: PLACE.replace(place),
        }
    }

    impl Drop for Here {
        fn drop(&mut self) {
            PLACE.set(self.before);
        }
    }
}

#[cfg(not(debug_assertions))]
mod rules {
    use super::Rank;

    #[derive(Clone, Copy)]
    pub enum Kind {
        Memory,
        Serial,
    }

    #[derive(Clone, Copy)]
    pub enum Place {
        MustNotWait,
        Request,
    }

    #[derive(Debug)]
    pub struct Held;

    pub struct Here;

    #[inline(always)]
    pub fn take(_: Rank, _: Kind) -> Held {
        Held
    }

    #[inline(always)]
    pub fn system_call(_: &str) {}

    #[inline(always)]
    pub fn awaits() {}

    #[inline(always)]
    pub fn enter(_: Place) -> Here {
        Here
    }
}

#[cfg(test)]
mod tests {
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        task::{Context, Poll, Waker},
    };

    use super::*;

    /// What a panic says.
    fn refused(work: impl FnOnce()) -> String {
        let panic = catch_unwind(AssertUnwindSafe(work)).expect_err("no rule is broken");
        panic.downcast_ref::<String>().cloned().unwrap_or_default()
    }

    /// One look at what a request does.
    fn polled(work: impl Future<Output = ()>) {
        let mut context = Context::from_waker(Waker::noop());
        let _pending = pin!(request(work)).poll(&mut context);
    }

    /// What `status` and `explain` did when two of them at once stopped the agent. One thread alone shows it: neither
    /// has to meet the other.
    #[test]
    fn d1_the_two_locks_that_stopped_the_agent_are_refused() {
        let generations = Serial::new(Rank::Apply, ());
        let standing = Ranked::new(Rank::Standing, vec!["net.ipv4.tcp_syncookies"]);
        let kernel_status = |_shortfalls: &[&str]| drop(generations.lock());
        // `admin/api.rs`: the guard lives until the call returns, though a copy of what it guards is handed over.
        let status = refused(|| kernel_status(&standing.lock().clone()));
        assert!(
            status.contains("Apply is taken while Standing is held"),
            "{status}"
        );
        // `agent/explain.rs`: the other order, which is the right one, but not for a request.
        let explain = || {
            let _generations = generations.lock();
            drop(standing.lock());
        };
        let refusal = refused(|| polled(async { explain() }));
        assert!(
            refusal.contains("Apply is a lock across system calls"),
            "{refusal}"
        );
        // `admin/api.rs` again: the kernel was asked about sockets, for up to 2 s.
        let probe = refused(|| {
            let _standing = standing.lock();
            system_call("sock_diag");
        });
        assert!(probe.contains("sock_diag is a system call"), "{probe}");
    }

    #[test]
    fn locks_are_taken_in_order() {
        let (apply, in_force) = (Serial::new(Rank::Apply, ()), Serial::new(Rank::InForce, ()));
        let (flows, recents) = (Ranked::new(Rank::Flows, ()), Ranked::new(Rank::Recents, ()));
        {
            let _apply = apply.lock();
            let _in_force = in_force.lock();
            system_call("between serial locks");
            drop(flows.lock());
            drop(recents.lock());
        }
        assert!(refused(|| drop((in_force.lock(), apply.lock()))).contains("against the order"));
        // Memory's locks are not taken together at all.
        assert!(refused(|| drop((flows.lock(), recents.lock()))).contains("against the order"));
        assert!(refused(|| drop((flows.lock(), in_force.lock()))).contains("against the order"));
        // A panic has left nothing behind.
        drop((apply.lock(), in_force.lock()));
    }

    #[test]
    fn memory_is_not_locked_across_a_system_call_or_an_await() {
        let flows = Ranked::new(Rank::Flows, ());
        let call = refused(|| {
            let _flows = flows.lock();
            system_call("FLOWS");
        });
        assert!(call.contains("FLOWS is a system call"), "{call}");
        let mut held = None;
        let pending = refused(|| {
            polled(poll_fn(|_| {
                held = Some(flows.lock());
                Poll::Pending
            }));
        });
        assert!(pending.contains("across an await"), "{pending}");
    }

    #[test]
    fn requests_and_the_heartbeat_wait_for_no_system_call() {
        let apply = Serial::new(Rank::Apply, ());
        assert!(refused(|| without_waiting(|| drop(apply.lock()))).contains("must not wait"));
        without_waiting(|| system_call("its own"));
        let call = refused(|| polled(async { system_call("COUNTERS") }));
        assert!(call.contains("holds up the thread"), "{call}");
        drop(apply.lock());
    }
}
