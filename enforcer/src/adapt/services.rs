//! How long services take, as the gateway's workers see it, by the port that requests came to.

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Shards: each worker writes its own, so that no worker waits for another.
const SHARDS: usize = 64;

/// The part of requests that are answered within the latency that counts. Whoever wants to make others' limits fall
/// would have to send a quarter of all requests, and services that are slow by nature and seldom asked change nothing.
const PART: f64 = 0.75;

/// Each doubling of latency is divided into so many parts.
const PARTS: usize = 8;
/// From a microsecond to more than an hour.
const BUCKETS: usize = 32 * PARTS;

/// Latencies of requests, each to an eighth.
#[derive(Clone, Debug)]
pub struct Latencies {
    counts: Box<[u64; BUCKETS]>,
    total: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            counts: Box::new([0; BUCKETS]),
            total: 0,
        }
    }
}

impl Latencies {
    fn record(&mut self, latency: Duration) {
        self.counts[bucket(latency)] += 1;
        self.total += 1;
    }

    /// Takes those of `other` in.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts.iter()) {
            *count += more;
        }
        self.total += other.total;
    }

    /// Three quarters of requests were answered within this time, in seconds, if there were any.
    #[must_use]
    pub fn usual(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a part of a count")]
        let wanted = self.total as f64 * PART;
        let mut seen = 0_u64;
        let bucket = self.counts.iter().position(|count| {
            seen += count;
            #[expect(clippy::cast_precision_loss, reason = "a part of a count")]
            let reached = seen as f64 >= wanted;
            seen > 0 && reached
        })?;
        Some(upper_end(bucket))
    }
}

/// The bucket of a latency: which doubling of a microsecond, and which part of that.
fn bucket(latency: Duration) -> usize {
    let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1);
    let doubling = micros.ilog2() as usize;
    let within = micros - (1 << doubling);
    let part = usize::try_from((u128::from(within) * PARTS as u128) >> doubling).unwrap_or(0);
    (doubling * PARTS + part).min(BUCKETS - 1)
}

/// In seconds.
fn upper_end(bucket: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "below 256")]
    let (doubling, part) = ((bucket / PARTS) as f64, (bucket % PARTS) as f64);
    doubling.exp2() * (1.0 + (part + 1.0) / PARTS as f64) / 1e6
}

/// All latencies since they were last taken. Bounded by the ports that the gateway listens on.
#[derive(Debug)]
pub struct Services {
    shards: Vec<Mutex<BTreeMap<u16, Latencies>>>,
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
    /// A service has answered a request that came to `port`. `latency`: what the service took, and not its client.
    pub fn record(&self, port: u16, latency: Duration) {
        let shard = SHARD.with(|shard| {
            shard.get().unwrap_or_else(|| {
                let next = NEXT_SHARD.fetch_add(1, Ordering::Relaxed) % SHARDS;
                shard.set(Some(next));
                next
            })
        });
        // Contended only in the moment that `take` empties it.
        let mut shard = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        shard.entry(port).or_default().record(latency);
    }

    /// What has happened since the last call, by port.
    #[must_use]
    pub fn take(&self) -> BTreeMap<u16, Latencies> {
        let mut all: BTreeMap<u16, Latencies> = BTreeMap::new();
        for shard in &self.shards {
            let taken = std::mem::take(&mut *shard.lock().unwrap_or_else(PoisonError::into_inner));
            for (port, latencies) in taken {
                all.entry(port).or_default().add(&latencies);
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn all_threads_are_summed_once() {
        let services = Services::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        services.record(443, 2 * MILLISECOND);
                    }
                });
            }
        });
        let latencies = &services.take()[&443];
        assert_eq!(latencies.total, 400);
        let usual = latencies.usual().unwrap();
        assert!((0.002..0.00225).contains(&usual), "{usual}");
        assert!(services.take().is_empty());
    }

    #[test]
    fn l8_a_slow_client_or_service_does_not_speak_for_all() {
        let services = Services::default();
        for _ in 0..800 {
            services.record(443, 2 * MILLISECOND);
        }
        for _ in 0..190 {
            services.record(443, 5_000 * MILLISECOND);
        }
        let usual = services.take()[&443].usual().unwrap();
        assert!(usual < 0.01, "the mean is a second: {usual}");
        for _ in 0..60 {
            services.record(443, 2 * MILLISECOND);
        }
        for _ in 0..40 {
            services.record(443, 500 * MILLISECOND);
        }
        let usual = services.take()[&443].usual().unwrap();
        assert!((0.4..0.6).contains(&usual), "many of all are slow: {usual}");
    }

    #[test]
    fn l8_ports_are_told_apart() {
        let services = Services::default();
        services.record(443, MILLISECOND);
        services.record(8443, 5_000 * MILLISECOND);
        let taken = services.take();
        assert!(taken[&443].usual().unwrap() < 0.01 && taken[&8443].usual().unwrap() > 4.0);
    }

    #[test]
    fn buckets_are_an_eighth_wide() {
        for micros in [0, 1, 2, 3, 7, 1_000, 65_537, 9_999_999, 3_000_000_000] {
            let bucket = bucket(Duration::from_micros(micros));
            let (end, seconds) = (
                upper_end(bucket),
                Duration::from_micros(micros.max(1)).as_secs_f64(),
            );
            assert!(end > seconds && end <= seconds * 1.126 + 2e-6, "{micros}: {end}");
        }
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
        assert_eq!(Latencies::default().usual(), None);
    }
}
