//! Threads that share a limiter get as much as one would.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};

use enforcer_common::limiter::{Algorithm, FRESH, Params, charge_atomic};

use crate::arrivals::SECOND;

const THREADS: usize = 4;
const CHARGES: u64 = 5000;

fn charge_from_threads(params: &Params, now_ns: impl Fn(u64) -> u64 + Sync) -> u64 {
    let cell = AtomicU64::new(FRESH);
    let barrier = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        let charge = || {
            barrier.wait();
            (0..CHARGES)
                .filter(|i| charge_atomic(&cell, params, now_ns(*i), 1).admitted())
                .count() as u64
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(charge)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no thread panics"))
            .sum()
    })
}

const ALGORITHMS: [Algorithm; 4] = [
    Algorithm::TokenBucket,
    Algorithm::LeakyBucket,
    Algorithm::FixedWindow,
    Algorithm::SlidingWindow,
];

#[test]
fn at_one_time_threads_share_exactly_the_burst() {
    for algorithm in ALGORITHMS {
        let params = Params::new(algorithm, 7777, SECOND, 7777).unwrap();
        assert_eq!(
            charge_from_threads(&params, |_| 9 * SECOND),
            7777,
            "{algorithm:?}"
        );
    }
}

#[test]
fn as_time_passes_threads_share_burst_and_rate() {
    // Each thread's clock moves by one unit's time per charge; so more is asked than there is, at every time.
    for algorithm in [Algorithm::TokenBucket, Algorithm::LeakyBucket] {
        let params = Params::new(algorithm, 1000, SECOND, 100).unwrap();
        let admitted = charge_from_threads(&params, |i| SECOND + i * 1_000_000);
        assert!(
            (CHARGES..CHARGES + 100).contains(&admitted),
            "{algorithm:?}: {admitted}"
        );
    }
}

#[test]
fn a_refusal_writes_nothing() {
    for algorithm in ALGORITHMS {
        let params = Params::new(algorithm, 5, SECOND, 5).unwrap();
        let cell = AtomicU64::new(FRESH);
        assert!(charge_atomic(&cell, &params, SECOND, 5).admitted());
        let full = cell.load(Ordering::Relaxed);
        assert!(!charge_atomic(&cell, &params, SECOND, 1).admitted());
        assert!(charge_atomic(&cell, &params, SECOND, 0).admitted());
        assert_eq!(cell.load(Ordering::Relaxed), full);
    }
}
