//! Who is refused where not all can be served.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use enforcer_gateway::{pressure::Shedding, signal::Verdict};
use enforcer_model::{PathMatch, PolicySet, Priority, Rule, Service};

use crate::data_path::{
    bounds::{held, number, one_worker},
    support::{
        Lab, Plan,
        client::{Client, H1},
        eventually,
        origin::Origin,
        policy,
    },
};

fn of(priority: Priority, path: &str) -> Rule {
    let mut rule = policy::open_rule();
    rule.path = PathMatch::prefix(path).unwrap();
    rule.routing.priority = priority;
    rule
}

/// Rules for `/low`, `/high` and all else.
fn three(service: Service) -> PolicySet {
    policy::set(
        vec![
            of(Priority::Low, "/low"),
            of(Priority::High, "/high"),
            of(Priority::Normal, "/"),
        ],
        service,
    )
}

fn limit(lab: &Lab) -> Option<u32> {
    let metrics = lab.metrics();
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("enforcer_upstream_concurrency_limit{service=\"orders\"} "))?;
    line.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_priority_leaves_room_for_those_above_it() {
    let origin = Origin::start().await;
    let mut service = policy::service(&[origin.address]);
    service.limits.requests = number(5);
    let lab = one_worker().start(three(service));
    let mut client = Client::connect(&lab, H1).await;
    let mut under_way = Vec::new();
    // With so many under way: 3 of 5 are for low, 4 for normal, 5 for high.
    for (held_already, [low, normal, high]) in
        [(2, [200, 200, 200]), (3, [503, 200, 200]), (4, [503, 503, 200])]
    {
        while under_way.len() < held_already {
            under_way.push(held(&lab).await);
            eventually("it is under way", async || {
                origin
                    .state
                    .seen
                    .lock()
                    .unwrap()
                    .iter()
                    .filter(|seen| seen.target == "/held")
                    .count()
                    == under_way.len()
            })
            .await;
        }
        for (path, status) in [("/low", low), ("/", normal), ("/high", high)] {
            let reply = client.get(path).await;
            assert_eq!(reply.status, status, "{path} beside {held_already}");
            if status == 503 {
                assert_eq!(reply.headers["retry-after"], "1");
            }
        }
    }
    origin.state.gate.add_permits(4);
    for each in under_way {
        assert_eq!(each.await.unwrap().status, 200);
    }
    assert_eq!(client.get("/low").await.status, 200);
    lab.recorder.look(|seen| {
        let refused = seen
            .verdicts
            .iter()
            .filter(|(verdict, _)| *verdict == Verdict::Saturated);
        assert_eq!(refused.count(), 3);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_one_priority_is_filled_by_it() {
    let origin = Origin::start().await;
    let mut service = policy::service(&[origin.address]);
    service.limits.requests = number(1);
    let lab = one_worker().start(policy::set(vec![of(Priority::Low, "/")], service));
    let mut client = Client::connect(&lab, H1).await;
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_follows_what_a_service_can_do() {
    let origin = Origin::start().await;
    let mut service = policy::service(&[origin.address]);
    service.limits.requests = number(200);
    service.limits.adaptive_floor = Some(number(2));
    let lab = one_worker().start(policy::set(vec![policy::open_rule()], service.clone()));
    // So few wait for nobody: what they take is what the service takes.
    let ends = Arc::new(AtomicBool::new(false));
    let load = |clients: usize, lab: &Lab| {
        let mut tasks = Vec::new();
        for _ in 0..clients {
            let (ends, address, config) = (Arc::clone(&ends), lab.address, lab.pki.client_config(None, H1));
            tasks.push(tokio::spawn(async move {
                let stream = crate::data_path::support::client::tls(address, config)
                    .await
                    .unwrap();
                let mut client = Client::over(stream).await;
                let mut refused = 0;
                while !ends.load(Ordering::SeqCst) {
                    if client.get("/narrow").await.status == 503 {
                        refused += 1;
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
                refused
            }));
        }
        tasks
    };
    let mut clients = load(4, &lab);
    eventually("the limit is told", async || limit(&lab).is_some()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    clients.extend(load(96, &lab));
    eventually("most are refused", async || {
        lab.metrics().lines().any(|line| {
            line.strip_prefix("enforcer_upstream_overflows_total{bound=\"adaptive\",service=\"orders\"} ")
                .is_some_and(|count| count.parse::<u64>().unwrap() > 500)
        })
    })
    .await;
    let found = limit(&lab).unwrap();
    assert!(
        (2..=60).contains(&found),
        "{found} for a service of four at a time"
    );
    // A policy that no longer adapts takes its limit back.
    service.limits.adaptive_floor = None;
    lab.policies
        .replace(policy::set(vec![policy::open_rule()], service));
    eventually("no limit is told", async || limit(&lab) == Some(0)).await;
    ends.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_late_refuses_those_of_low_priority() {
    let origin = Origin::start().await;
    let lab = Plan {
        workers: 1,
        shedding: Shedding {
            low: Some(Duration::from_millis(20)),
            normal: None,
        },
        ..Plan::default()
    }
    .start(three(policy::service(&[origin.address])));
    let mut client = Client::connect(&lab, H1).await;
    assert_eq!(client.get("/low").await.status, 200);
    lab.recorder.busy.store(40, Ordering::SeqCst);
    let mut others = Vec::new();
    let ends = Arc::new(AtomicBool::new(false));
    for _ in 0..4 {
        let mut client = Client::connect(&lab, H1).await;
        let ends = Arc::clone(&ends);
        others.push(tokio::spawn(async move {
            while !ends.load(Ordering::SeqCst) {
                assert_eq!(client.get("/high").await.status, 200);
            }
        }));
    }
    let mut refused = None;
    eventually("those of low priority are refused", async || {
        let reply = client.get("/low").await;
        let is_refused = reply.status == 503;
        refused = is_refused.then_some(reply);
        is_refused
    })
    .await;
    assert_eq!(refused.unwrap().headers["retry-after"], "1");
    assert_eq!(client.get("/").await.status, 200, "nobody asked for that");
    lab.recorder
        .look(|seen| assert!(seen.verdicts.contains(&(Verdict::Shed, 503))));
    ends.store(true, Ordering::SeqCst);
    for other in others {
        other.await.unwrap();
    }
    lab.recorder.busy.store(0, Ordering::SeqCst);
    eventually("and then are not", async || {
        client.get("/low").await.status == 200
    })
    .await;
}
