//! Who waits, for how long, and in which order. The clock is paused and runs ahead.

use std::{cell::RefCell, time::Duration};

use enforcer_common::limiter::Algorithm;
use enforcer_gateway::limit::{KeyParts, Outcome, RuleLimits, queue::WaitingRoom};
use enforcer_model::{Exceed, RequestKey, RequestLimit};
use futures_util::future::{join, join_all};
use tokio::time::{Instant, timeout};

use crate::limits::fixture::{ALGORITHMS, NOW, bind, from, limit};

const SECOND: Duration = Duration::from_secs(1);

/// A limit of `amount` a second, over which requests wait for so long.
fn patient(algorithm: Algorithm, amount: u64, patience: Duration) -> RuleLimits {
    bind(&[RequestLimit {
        exceed: Exceed::Queue(patience),
        ..limit(algorithm, amount, SECOND, &[RequestKey::SOURCE])
    }])
}

struct Desk {
    room: WaitingRoom,
    limits: RuleLimits,
    opened: Instant,
    /// Who was admitted, in order, and after how many milliseconds.
    admitted: RefCell<Vec<(usize, u128)>>,
}

impl Desk {
    fn open(capacity: usize, limits: RuleLimits) -> Self {
        let room = WaitingRoom::new(capacity);
        Self {
            room,
            limits,
            opened: Instant::now(),
            admitted: RefCell::default(),
        }
    }

    async fn admit(&self, keys: &KeyParts<'_>) -> Outcome {
        let clock = || NOW + u64::try_from(self.opened.elapsed().as_nanos()).unwrap();
        self.room.admit(&self.limits, keys, clock).await
    }

    async fn come(&self, who: usize, keys: KeyParts<'static>) -> bool {
        let admitted = matches!(self.admit(&keys).await, Outcome::Admitted { .. });
        if admitted {
            self.admitted
                .borrow_mut()
                .push((who, self.opened.elapsed().as_millis()));
        }
        admitted
    }

    /// So many requests of one client at once; how many are admitted.
    async fn come_all(&self, count: usize) -> usize {
        let all = (0..count).map(|who| self.come(who, from("192.0.2.1")));
        join_all(all)
            .await
            .into_iter()
            .filter(|&admitted| admitted)
            .count()
    }

    fn order(&self) -> Vec<usize> {
        self.admitted.borrow().iter().map(|&(who, _)| who).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn requests_are_served_in_the_order_of_their_coming() {
    for algorithm in ALGORITHMS {
        let desk = Desk::open(1_000, patient(algorithm, 4, 10 * SECOND));
        assert_eq!(desk.come_all(20).await, 20, "{algorithm:?}");
        assert_eq!(desk.order(), (0..20).collect::<Vec<_>>(), "{algorithm:?}");
        let last = desk.admitted.borrow()[19].1;
        // A sliding window of a few lets a little less through than the rate.
        assert!(
            (3900..=6100).contains(&last),
            "{algorithm:?}: four at once, then four a second: {last}"
        );
        assert_eq!(desk.room.waiting(), 0, "{algorithm:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_would_wait_in_vain_is_refused_at_once() {
    for algorithm in ALGORITHMS {
        let desk = Desk::open(1_000, patient(algorithm, 4, 2 * SECOND));
        let refused = RefCell::new(Vec::new());
        let (desk, refused) = (&desk, &refused);
        let all = (0..40).map(|who| async move {
            if !desk.come(who, from("192.0.2.1")).await {
                refused
                    .borrow_mut()
                    .push((who, desk.opened.elapsed().as_millis()));
            }
        });
        join_all(all).await;
        let served = desk.admitted.borrow().len();
        assert!(
            (8..=13).contains(&served),
            "{algorithm:?}: {served} in two seconds"
        );
        assert_eq!(desk.order(), (0..served).collect::<Vec<_>>(), "{algorithm:?}");
        let late = refused.borrow().iter().filter(|&&(_, after)| after > 0).count();
        assert!(late <= 1, "{algorithm:?}: {late} waited in vain");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_overtakes_a_line() {
    let desk = Desk::open(1_000, patient(Algorithm::TokenBucket, 1, 10 * SECOND));
    let latecomer = async {
        // Exactly when the bucket has one again, which is the first waiter's.
        tokio::time::sleep(SECOND).await;
        desk.come(3, from("192.0.2.1")).await
    };
    let (served, late) = join(desk.come_all(3), latecomer).await;
    assert!(served == 3 && late);
    assert_eq!(desk.order(), [0, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn other_clients_do_not_stand_in_the_line() {
    let desk = Desk::open(1_000, patient(Algorithm::TokenBucket, 1, 10 * SECOND));
    join(desk.come_all(3), desk.come(7, from("192.0.2.7"))).await;
    assert_eq!(desk.order(), [0, 7, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_full_room_takes_nobody() {
    let desk = Desk::open(2, patient(Algorithm::TokenBucket, 1, 10 * SECOND));
    for (admitted, what) in [
        (5, "three at once and two who wait"),
        (3, "the places are free again, and one has refilled"),
    ] {
        // Two from each, of which the second has to wait.
        let sources = ["192.0.2.1", "198.51.100.1", "203.0.113.1"];
        let all = sources
            .into_iter()
            .chain(sources)
            .map(|source| desk.come(0, from(source)));
        let all = join_all(all).await;
        assert_eq!(
            all.into_iter().filter(|&admitted| admitted).count(),
            admitted,
            "{what}"
        );
        assert_eq!(desk.room.waiting(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn l7_one_client_does_not_fill_the_room() {
    let desk = Desk::open(80, patient(Algorithm::TokenBucket, 1, 1_000 * SECOND));
    let waiting = async {
        assert!(timeout(SECOND / 2, desk.come_all(100)).await.is_err());
    };
    let beside = async {
        tokio::time::sleep(SECOND / 4).await;
        assert_eq!(desk.room.waiting(), 10, "an eighth");
        assert!(desk.come(7, from("198.51.100.1")).await && desk.come(8, from("198.51.100.1")).await);
    };
    join(waiting, beside).await;
}

#[tokio::test(start_paused = true)]
async fn l7_one_key_does_not_fill_the_room() {
    let limits = bind(&[RequestLimit {
        exceed: Exceed::Queue(1_000 * SECOND),
        ..limit(Algorithm::TokenBucket, 1, SECOND, &[RequestKey::Rule])
    }]);
    let desk = Desk::open(20, limits);
    let sources: Vec<String> = (0..100).map(|n| format!("198.51.{n}.1")).collect();
    let all = join_all(sources.iter().map(|source| async {
        let keys = KeyParts::new(source.parse().unwrap(), None, None);
        desk.admit(&keys).await
    }));
    assert!(
        timeout(SECOND / 2, async {
            let watched = async {
                tokio::time::sleep(SECOND / 4).await;
                assert_eq!(desk.room.waiting(), 10, "half");
            };
            join(all, watched).await
        })
        .await
        .is_err()
    );
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_gives_up_the_place() {
    let desk = Desk::open(1_000, patient(Algorithm::TokenBucket, 1, 10 * SECOND));
    assert_eq!(desk.come_all(1).await, 1);
    let impatient = timeout(SECOND / 2, desk.come_all(5)).await;
    assert!(impatient.is_err());
    assert_eq!(desk.room.waiting(), 0);
    assert!(desk.come(9, from("192.0.2.1")).await);
    assert_eq!(desk.opened.elapsed().as_millis(), 1000, "the first turn is free");
}

#[tokio::test(start_paused = true)]
async fn without_a_queue_nobody_waits() {
    let limits = bind(&[limit(Algorithm::TokenBucket, 4, SECOND, &[RequestKey::SOURCE])]);
    let desk = Desk::open(1_000, limits);
    assert_eq!(desk.come_all(20).await, 4);
    assert_eq!(desk.opened.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_leaky_bucket_lets_out_one_after_the_other() {
    let limits = bind(&[limit(Algorithm::LeakyBucket, 4, SECOND, &[RequestKey::SOURCE])]);
    let desk = Desk::open(1_000, limits);
    assert_eq!(desk.come_all(10).await, 4);
    assert_eq!(*desk.admitted.borrow(), [(0, 0), (1, 250), (2, 500), (3, 750)]);
}
