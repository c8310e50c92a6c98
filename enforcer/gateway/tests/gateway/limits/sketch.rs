//! What the sketch promises: nobody gets more than the limit, and few get less.

use std::time::Duration;

use enforcer_common::limiter::{Algorithm, FRESH};
use enforcer_gateway::limit::sketch::Sketch;

use crate::limits::fixture::{ALGORITHMS, NOW, SECOND, params};

/// Numbers that look random (Steele, Lea, Flood: SplitMix64), the same in each run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

#[test]
fn crowded_keys_never_get_more_than_the_limit() {
    for algorithm in ALGORITHMS {
        let params = params(algorithm, 20, Duration::from_secs(1));
        // Forty keys in sixteen cells.
        let sketch = Sketch::new(params, 2);
        let mut numbers = Numbers(1);
        let keys: Vec<u64> = (0..40).map(|_| numbers.next()).collect();
        let mut alone = vec![FRESH; keys.len()];
        let (mut now, mut admitted) = (NOW, 0);
        for _ in 0..200_000 {
            now += numbers.next() % 5_000_000;
            let key = numbers.next() as usize % keys.len();
            if !sketch.charge(keys[key], now, 1).admitted() {
                continue;
            }
            admitted += 1;
            let decision = params.charge(alone[key], now, 1);
            assert!(
                decision.admitted(),
                "{algorithm:?}: the key's own limiter would have refused"
            );
            alone[key] = decision.state;
        }
        assert!(admitted > 1000, "{algorithm:?}: {admitted}");
    }
}

#[test]
fn an_uncrowded_key_gets_exactly_the_limit() {
    for algorithm in ALGORITHMS {
        let params = params(algorithm, 20, Duration::from_secs(1));
        let sketch = Sketch::new(params, 1);
        let mut alone = FRESH;
        let (mut now, mut numbers) = (NOW, Numbers(2));
        for _ in 0..50_000 {
            now += numbers.next() % 100_000_000;
            let decision = params.charge(alone, now, 1);
            let charged = sketch.charge(7, now, 1);
            assert_eq!(charged.retry_after_ns, decision.retry_after_ns, "{algorithm:?}");
            alone = decision.state;
        }
    }
}

#[test]
fn as_many_are_refused_for_others_as_computed() {
    let lines = 1 << 16;
    for load in [0.05, 0.2, 1.0_f64] {
        let sketch = Sketch::new(params(Algorithm::TokenBucket, 3, Duration::from_secs(60)), lines);
        let mut numbers = Numbers(3);
        for _ in 0..(lines as f64 * load) as usize {
            let key = numbers.next();
            while sketch.charge(key, NOW, 1).admitted() {}
        }
        let tries = 400_000;
        let refused = (0..tries)
            .filter(|_| {
                !sketch
                    .params()
                    .charge(sketch.state(numbers.next(), NOW), NOW, 1)
                    .admitted()
            })
            .count();
        let measured = refused as f64 / f64::from(tries);
        let computed = 1.0 - 4.0 * (-load / 2.0).exp() + 6.0 * (-load * 11.0 / 14.0).exp()
            - 4.0 * (-load * 13.0 / 14.0).exp()
            + (-load * 69.0 / 70.0).exp();
        let ratio = measured / computed;
        assert!(
            (0.8..1.25).contains(&ratio),
            "load {load}: {measured} measured, {computed} computed"
        );
    }
}

#[test]
fn light_keys_do_not_add_up() {
    // As many keys as there are cells, each at half of its limit.
    let sketch = Sketch::new(
        params(Algorithm::TokenBucket, 10, Duration::from_secs(60)),
        1 << 10,
    );
    let mut numbers = Numbers(4);
    let mut refused = 0;
    for _ in 0..8 << 10 {
        let key = numbers.next();
        refused += (0..5).filter(|_| !sketch.charge(key, NOW, 1).admitted()).count();
    }
    let share = refused as f64 / f64::from(5 * (8 << 10));
    assert!(share < 0.25, "{share}");
}

#[test]
fn what_is_used_is_forgotten_in_time() {
    for algorithm in ALGORITHMS {
        let sketch = Sketch::new(params(algorithm, 3, Duration::from_secs(1)), 1);
        while sketch.charge(7, NOW, 1).admitted() {}
        let admitted = (0..9)
            .filter(|_| sketch.charge(7, NOW + 2 * SECOND, 1).admitted())
            .count();
        assert_eq!(admitted, 3, "{algorithm:?}");
    }
}
