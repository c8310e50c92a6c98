//! How much limits admit.

use std::{thread, time::Duration};

use enforcer_common::limiter::Algorithm;
use enforcer_gateway::limit::{Outcome, RequestLimiters};
use enforcer_model::{Exceed, RequestKey, RequestLimit};

use crate::limits::fixture::{ALGORITHMS, NOW, SECOND, admitted, bind, from, limit, route, service};

const MINUTE: Duration = Duration::from_secs(60);
const KEYS: [RequestKey; 2] = [RequestKey::SOURCE, RequestKey::Rule];

#[test]
fn exactly_the_configured_amount_is_admitted() {
    for algorithm in ALGORITHMS {
        for key in KEYS {
            let limits = bind(&[limit(algorithm, 100, MINUTE, std::slice::from_ref(&key))]);
            let client = from("192.0.2.1");
            assert_eq!(
                admitted(&limits, &client, NOW, 1000),
                100,
                "{algorithm:?} by {key:?}"
            );
            let Outcome::Refused(refusal) = limits.check(&client, NOW) else {
                panic!("{algorithm:?} by {key:?}");
            };
            let wait = u64::try_from(refusal.retry_after.as_nanos()).unwrap();
            assert_eq!(
                admitted(&limits, &client, NOW + wait - 1, 1),
                0,
                "{algorithm:?} by {key:?}"
            );
            assert_eq!(
                admitted(&limits, &client, NOW + wait, 1),
                1,
                "{algorithm:?} by {key:?}"
            );
        }
    }
}

#[test]
fn workers_together_admit_exactly_the_configured_amount() {
    for algorithm in ALGORITHMS {
        for key in KEYS {
            let limits = bind(&[limit(algorithm, 20_000, MINUTE, std::slice::from_ref(&key))]);
            let worker = || admitted(&limits, &from("192.0.2.1"), NOW, 20_000);
            let total: usize = thread::scope(|scope| {
                let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
                workers.into_iter().map(|worker| worker.join().unwrap()).sum()
            });
            assert_eq!(total, 20_000, "{algorithm:?} by {key:?}");
        }
    }
}

#[test]
fn each_client_has_its_own() {
    for algorithm in ALGORITHMS {
        let limits = bind(&[limit(algorithm, 3, MINUTE, &[RequestKey::SOURCE])]);
        for client in ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1"] {
            assert_eq!(
                admitted(&limits, &from(client), NOW, 10),
                3,
                "{algorithm:?} {client}"
            );
        }
        assert_eq!(
            admitted(&limits, &from("2001:db8::2"), NOW, 10),
            0,
            "of a used up /64"
        );
    }
}

#[test]
fn all_clients_share_the_limit_of_a_rule() {
    let limits = bind(&[limit(Algorithm::TokenBucket, 3, MINUTE, &[RequestKey::Rule])]);
    assert_eq!(admitted(&limits, &from("192.0.2.1"), NOW, 2), 2);
    assert_eq!(admitted(&limits, &from("192.0.2.2"), NOW, 2), 1);
}

fn two_limits() -> [RequestLimit; 2] {
    let whole = limit(Algorithm::TokenBucket, 10, MINUTE, &[RequestKey::Rule]);
    let client = limit(Algorithm::TokenBucket, 2, MINUTE, &[RequestKey::SOURCE]);
    [
        RequestLimit {
            name: "whole".into(),
            ..whole
        },
        client,
    ]
}

#[test]
fn a_refused_request_is_charged_to_no_limit() {
    let limits = bind(&two_limits());
    assert_eq!(admitted(&limits, &from("192.0.2.1"), NOW, 100), 2);
    let others = (2..100).map(|host| format!("192.0.2.{host}"));
    let total: usize = others
        .map(|source| admitted(&limits, &from(&source), NOW, 3))
        .sum();
    assert_eq!(total, 8);
}

#[test]
fn the_limit_that_takes_longest_is_the_one_that_counts() {
    let [whole, client] = two_limits();
    let slow = RequestLimit {
        name: "slow".into(),
        ..limit(Algorithm::FixedWindow, 2, MINUTE, &[RequestKey::SOURCE])
    };
    let limits = bind(&[client, slow, whole]);
    let keys = from("192.0.2.1");
    assert_eq!(admitted(&limits, &keys, NOW, 2), 2);
    let refused = limits.refusal(&keys, NOW).unwrap();
    assert_eq!((refused.limit, refused.retry_after), (1, MINUTE));
    assert_eq!(limits.check(&keys, NOW), Outcome::Refused(refused));
    assert_eq!(limits.refusal(&from("192.0.2.2"), NOW), None);
    // Its turn may be waited for, but another limit rejects: that decides.
    let [_, client] = two_limits();
    let queue = RequestLimit {
        exceed: Exceed::Queue(MINUTE),
        ..limit(Algorithm::FixedWindow, 2, MINUTE, &[RequestKey::SOURCE])
    };
    let limits = bind(&[
        queue,
        RequestLimit {
            name: "rejects".into(),
            ..client
        },
    ]);
    assert_eq!(admitted(&limits, &keys, NOW, 2), 2);
    assert_eq!(limits.refusal(&keys, NOW).unwrap().limit, 1);
}

#[test]
fn without_limits_everything_is_admitted() {
    let limits = bind(&[]);
    let outcome = limits.check(&from("192.0.2.1"), NOW);
    assert_eq!(
        outcome,
        Outcome::Admitted {
            tightest: None,
            delay: Duration::ZERO
        }
    );
}

#[test]
fn a_new_policy_goes_on_with_the_states() {
    for key in KEYS {
        let limiters = RequestLimiters::new(1 << 10);
        let original = limit(Algorithm::TokenBucket, 5, MINUTE, std::slice::from_ref(&key));
        let client = from("192.0.2.1");
        let before = limiters.bind(&route(), Some(&service()), std::slice::from_ref(&original));
        assert_eq!(admitted(&before, &client, NOW, 3), 3);
        let same = limiters.bind(&route(), Some(&service()), std::slice::from_ref(&original));
        drop(before);
        assert_eq!(admitted(&same, &client, NOW, 9), 2, "{key:?}");
        let elsewhere = limiters.bind(
            &"carts".parse().unwrap(),
            Some(&service()),
            std::slice::from_ref(&original),
        );
        assert_eq!(
            admitted(&elsewhere, &client, NOW, 9),
            5,
            "{key:?} of another route"
        );
        let renamed = RequestLimit {
            name: "other".into(),
            ..original
        };
        let renamed = limiters.bind(&route(), Some(&service()), &[renamed]);
        assert_eq!(admitted(&renamed, &client, NOW, 9), 5, "{key:?} of another name");
        let changed = limiters.bind(
            &route(),
            Some(&service()),
            &[limit(
                Algorithm::TokenBucket,
                6,
                MINUTE,
                std::slice::from_ref(&key),
            )],
        );
        assert_eq!(
            admitted(&changed, &client, NOW, 9),
            6,
            "{key:?} of another amount"
        );
        let still = admitted(&same, &client, NOW + 12 * SECOND, 9);
        assert_eq!(still, 1, "{key:?}: a fifth of a minute refills one");
    }
}

#[test]
fn a_leaky_bucket_spaces_what_it_admits() {
    let limits = bind(&[limit(
        Algorithm::LeakyBucket,
        5,
        Duration::from_secs(5),
        &[RequestKey::SOURCE],
    )]);
    for waits in 0..5 {
        let Outcome::Admitted { delay, .. } = limits.check(&from("192.0.2.1"), NOW) else {
            panic!("the bucket holds five");
        };
        assert_eq!(delay, Duration::from_secs(waits));
    }
}
