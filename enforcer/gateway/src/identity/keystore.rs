//! Keeps an issuer's keys fresh.
//!
//! One task per issuer reads the document, so that never two readings are under way. Whoever verifies
//! takes the published set without a lock. A failed reading keeps the last good set.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use jsonwebtoken::Algorithm;
use thiserror::Error;
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    task::AbortHandle,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use super::{
    jwks::{KeySet, KeySetError},
    source::{self, SourceError},
};
use enforcer_model::{Issuer, Jwks, JwksSource, Name};
use enforcer_tls::file_stamp::Stamp;

/// The least time between two readings that tokens with unknown keys cause.
pub const REFETCH_INTERVAL: Duration = Duration::from_secs(10);
/// The longest that a request waits for readings.
pub const REFETCH_WAIT: Duration = Duration::from_secs(2);
/// After the first failure; doubled with each further one.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// How often a key document in a file is looked at. It is read only if it has changed.
const LOOK_AT_FILE: Duration = Duration::from_millis(500);
/// Whatever the policy says, not more often.
const SHORTEST_REFRESH: Duration = Duration::from_secs(1);

/// An issuer's keys, read again and again until this is dropped.
#[derive(Debug)]
pub struct KeyStore {
    shared: Arc<Shared>,
    task: AbortHandle,
}

/// How the reading of an issuer's keys goes.
#[derive(Clone, Debug, Default)]
pub struct KeyState {
    /// When the document was last read and was good.
    pub last_success: Option<SystemTime>,
    /// Why the last reading failed; `None` if it did not.
    pub last_error: Option<Arc<str>>,
    /// How many readings have ended.
    pub attempts: u64,
    /// Whether one is under way.
    pub reading: bool,
}

#[derive(Debug)]
struct Shared {
    name: Name,
    source: JwksSource,
    algorithms: Vec<Algorithm>,
    refresh: Duration,
    keys: ArcSwap<KeySet>,
    state: watch::Sender<KeyState>,
    wanted: Notify,
    started: Instant,
    /// Milliseconds after `started` before which no token causes a reading.
    next_refetch: AtomicU64,
}

#[derive(Debug, Error)]
enum ReadError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("the document is of no use: {0}")]
    Document(#[from] KeySetError),
}

impl KeyStore {
    /// Begins to read the keys of `issuer`, which are in `jwks`, on `runtime`, at once.
    #[must_use]
    pub fn start(issuer: &Issuer, jwks: &Jwks, runtime: &Handle) -> Self {
        let shared = Arc::new(Shared {
            name: issuer.name.clone(),
            source: jwks.source.clone(),
            algorithms: issuer.algorithms.clone(),
            refresh: jwks.refresh.max(SHORTEST_REFRESH),
            keys: ArcSwap::from_pointee(KeySet::empty()),
            state: watch::Sender::new(KeyState {
                reading: true,
                ..KeyState::default()
            }),
            wanted: Notify::new(),
            started: Instant::now(),
            next_refetch: AtomicU64::new(0),
        });
        let task = runtime.spawn(Arc::clone(&shared).run()).abort_handle();
        Self { shared, task }
    }

    /// Whether this reads what a store for `issuer` would.
    #[must_use]
    pub fn serves(&self, issuer: &Issuer, jwks: &Jwks) -> bool {
        self.shared.source == jwks.source
            && self.shared.algorithms == issuer.algorithms
            && self.shared.refresh == jwks.refresh.max(SHORTEST_REFRESH)
    }

    /// The keys in use. Takes no lock.
    #[must_use]
    pub fn keys(&self) -> arc_swap::Guard<Arc<KeySet>> {
        self.shared.keys.load()
    }

    /// How the reading goes.
    #[must_use]
    pub fn state(&self) -> KeyState {
        self.shared.state.borrow().clone()
    }

    /// Whether the last reading was good, and none is under way.
    #[must_use]
    pub fn is_current(&self) -> bool {
        let state = self.shared.state.borrow();
        !state.reading && state.last_error.is_none()
    }

    /// Waits until the document was read for the first time, or could not be.
    pub async fn first_attempt(&self) {
        let mut state = self.shared.state.subscribe();
        // The sender lives as long as this.
        let _ = state.wait_for(|state| state.attempts > 0).await;
    }

    /// How many readings have ended: for [`Self::refetch`], to be asked before the keys are looked at.
    #[must_use]
    pub fn readings(&self) -> u64 {
        self.shared.state.borrow().attempts
    }

    /// Has the document read again because a token names a key that was not there after `seen` readings, unless that
    /// happened within [`REFETCH_INTERVAL`]; joins a reading that is under way, and waits until it has ended.
    /// Whether one has ended since `seen`.
    pub async fn refetch(&self, seen: u64) -> bool {
        let mut state = self.shared.state.subscribe();
        let mut is_awaited = true;
        // In one step, so that whoever comes second joins the reading that the first has caused.
        self.shared.state.send_if_modified(|state| {
            // One that ended after the keys were looked at may have brought the one that is missing.
            if state.attempts == seen && !state.reading {
                is_awaited = self.shared.permits_refetch();
                state.reading = is_awaited;
                if is_awaited {
                    self.shared.wanted.notify_one();
                }
            }
            false
        });
        if !is_awaited {
            return false;
        }
        state.wait_for(|state| state.attempts != seen).await.is_ok()
    }
}

impl Drop for KeyStore {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    async fn run(self: Arc<Self>) {
        let mut failures = 0;
        loop {
            self.state.send_modify(|state| state.reading = true);
            let stamp = self.stamp().await;
            let outcome = self.read().await;
            failures = if outcome.is_ok() { 0 } else { failures + 1 };
            self.publish(outcome);
            let pause = pause(self.refresh, failures, random());
            tokio::select! {
                () = sleep(pause) => {}
                () = self.wanted.notified() => {}
                () = self.file_changes(stamp) => {}
            }
        }
    }

    /// What the file system says of the document, if it is a file that is there.
    async fn stamp(&self) -> Option<Stamp> {
        let JwksSource::File(path) = &self.source else {
            return None;
        };
        let data = tokio::fs::metadata(path).await.ok()?;
        Some(Stamp::from(&data))
    }

    /// Waits until the document, if it is a file, is no longer as `stamp` says.
    async fn file_changes(&self, stamp: Option<Stamp>) {
        if !matches!(self.source, JwksSource::File(_)) {
            return std::future::pending().await;
        }
        let settled = stamp.is_none_or(|stamp| stamp.is_settled(SystemTime::now()));
        loop {
            sleep(LOOK_AT_FILE).await;
            let now = self.stamp().await;
            // One that was written just before it was read is read once more.
            if now != stamp || (!settled && now.is_some_and(|now| now.is_settled(SystemTime::now()))) {
                return;
            }
        }
    }

    async fn read(&self) -> Result<KeySet, ReadError> {
        let document = source::read(&self.source).await?;
        Ok(KeySet::parse(&document, &self.algorithms)?)
    }

    fn publish(&self, outcome: Result<KeySet, ReadError>) {
        let error = match outcome {
            Ok(keys) => {
                self.replace(keys);
                None
            }
            Err(error) => {
                warn!(issuer = %self.name, %error, "the issuer's keys cannot be read; the last good ones stay");
                Some(error.to_string().into())
            }
        };
        self.state.send_modify(|state| {
            state.reading = false;
            state.attempts += 1;
            if error.is_none() {
                state.last_success = Some(SystemTime::now());
            }
            state.last_error = error;
        });
    }

    /// The same keys stay the same set: what was verified with them need not be verified again.
    fn replace(&self, keys: KeySet) {
        if self.keys.load().same_keys(&keys) {
            return;
        }
        info!(issuer = %self.name, keys = keys.len(), "the issuer has new keys");
        for (position, problem) in keys.unused() {
            warn!(issuer = %self.name, "`keys[{position}]` is not used: {problem}");
        }
        self.keys.store(Arc::new(keys));
    }

    fn permits_refetch(&self) -> bool {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let now = milliseconds(self.started.elapsed());
        let next = self.next_refetch.load(Ordering::Relaxed);
        now >= next
            && self
                .next_refetch
                .compare_exchange(
                    next,
                    now.saturating_add(milliseconds(REFETCH_INTERVAL)),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_ok()
    }
}

/// How long to wait after so many failures in a row. `random` takes off up to a tenth, so that a fleet
/// does not ask in step.
fn pause(refresh: Duration, failures: u32, random: u8) -> Duration {
    let whole = match failures {
        0 => refresh,
        n => FIRST_BACKOFF
            .saturating_mul(1 << (n - 1).min(6))
            .min(LONGEST_BACKOFF)
            .min(refresh),
    };
    whole - whole / 10 * u32::from(random) / u32::from(u8::MAX)
}

fn random() -> u8 {
    let mut byte = [0];
    // Without randomness there is no jitter; nothing depends on it.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    byte[0]
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tokio::time::advance;

    use super::*;
    use enforcer_model::{CheckedBy, Origin, Profile};

    #[tokio::test(start_paused = true)]
    async fn unknown_keys_cause_a_reading_in_ten_seconds() {
        let missing = PathBuf::from("/nonexistent/jwks.json");
        let jwks = Jwks {
            source: JwksSource::File(missing),
            refresh: Duration::from_secs(600),
        };
        let issuer = Issuer {
            name: "corp".parse().unwrap(),
            origin: Origin {
                file: "corp.yaml".into(),
                line: 3,
            },
            issuer: "https://idp.example.com".into(),
            checked_by: CheckedBy::Keys(jwks.clone()),
            audiences: vec!["orders".into()],
            algorithms: vec![Algorithm::ES256],
            types: vec!["at+jwt".into()],
            profile: Profile::default(),
            leeway: Duration::ZERO,
            tier: None,
            kept: Vec::new(),
            dpop: enforcer_model::Dpop::default(),
        };
        let store = KeyStore::start(&issuer, &jwks, &Handle::current());
        store.first_attempt().await;
        assert!(store.shared.permits_refetch());
        assert!(!store.shared.permits_refetch());
        advance(REFETCH_INTERVAL - Duration::from_millis(1)).await;
        assert!(!store.shared.permits_refetch());
        advance(Duration::from_millis(1)).await;
        assert!(store.shared.permits_refetch());
        assert!(!store.shared.permits_refetch());
    }

    #[test]
    fn pauses_grow_and_stay_bounded() {
        let refresh = Duration::from_secs(600);
        assert_eq!(pause(refresh, 0, 0), refresh);
        assert_eq!(pause(refresh, 0, 255), Duration::from_secs(540));
        let pauses: Vec<u64> = (1..=9).map(|n| pause(refresh, n, 0).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(pause(refresh, u32::MAX, 0), LONGEST_BACKOFF);
        assert_eq!(pause(Duration::from_secs(5), 9, 0), Duration::from_secs(5));
    }
}
