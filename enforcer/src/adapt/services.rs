//! What services do, as the gateway's workers see it: requests and their latency.

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::policy::model::Name;

/// Shards: each worker writes its own, so that no worker waits for another.
const SHARDS: usize = 64;

/// A service in one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Requests that reached it.
    pub requests: u64,
    /// The sum of their latencies.
    pub latency: Duration,
    /// Those that failed there: 5xx.
    pub failures: u64,
}

impl Activity {
    /// Mean latency in seconds, if there were requests.
    #[must_use]
    pub fn mean_latency(&self) -> Option<f64> {
        let requests = u32::try_from(self.requests).unwrap_or(u32::MAX);
        (requests > 0).then(|| self.latency.as_secs_f64() / f64::from(requests))
    }
}

/// All services' activity since it was last taken. Bounded by the services that policies name.
#[derive(Debug)]
pub struct Services {
    shards: Vec<Mutex<BTreeMap<Name, Activity>>>,
}

thread_local! {
    static SHARD: Cell<Option<usize>> = const { Cell::new(None) };
}

static NEXT_SHARD: AtomicUsize = AtomicUsize::new(0);

impl Default for Services {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }
}

impl Services {
    /// A request is finished.
    pub fn record(&self, service: &Name, latency: Duration, failed: bool) {
        let shard = SHARD.with(|shard| {
            shard.get().unwrap_or_else(|| {
                let next = NEXT_SHARD.fetch_add(1, Ordering::Relaxed) % SHARDS;
                shard.set(Some(next));
                next
            })
        });
        // Contended only in the moment that `take` empties it.
        let mut shard = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        let activity = match shard.get_mut(service) {
            Some(activity) => activity,
            None => shard.entry(service.clone()).or_default(),
        };
        activity.requests += 1;
        activity.latency += latency;
        activity.failures += u64::from(failed);
    }

    /// What has happened since the last call.
    #[must_use]
    pub fn take(&self) -> BTreeMap<Name, Activity> {
        let mut all: BTreeMap<Name, Activity> = BTreeMap::new();
        for shard in &self.shards {
            let taken = std::mem::take(&mut *shard.lock().unwrap_or_else(PoisonError::into_inner));
            for (service, activity) in taken {
                let sum = all.entry(service).or_default();
                sum.requests += activity.requests;
                sum.latency += activity.latency;
                sum.failures += activity.failures;
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_threads_are_summed_once() {
        let services = Services::default();
        let name: Name = "orders".parse().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        services.record(&name, Duration::from_millis(2), false);
                    }
                });
            }
        });
        let activity = services.take()[&name];
        assert_eq!((activity.requests, activity.failures), (400, 0));
        assert!((activity.mean_latency().unwrap() - 0.002).abs() < 1e-9);
        assert!(services.take().is_empty());
    }
}
