//! What of a service may be in use, and what is sent again.

use std::{
    net::SocketAddr,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use enforcer_gateway::signal::Verdict;
use enforcer_model::{Balance, HashKey, PolicySet, RetryOn, Service};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

use crate::data_path::support::{
    Lab, Plan,
    client::{self, Client, H1, H2, Reply},
    eventually,
    origin::Origin,
    policy,
};

pub(crate) fn one_worker() -> Plan {
    Plan {
        workers: 1,
        ..Plan::default()
    }
}

pub(crate) fn number(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

pub(crate) fn set(service: Service) -> PolicySet {
    policy::set(vec![policy::open_rule()], service)
}

/// Sends a request on a connection of its own.
pub(crate) async fn held(lab: &Lab) -> JoinHandle<Reply> {
    let mut client = Client::connect(lab, H1).await;
    tokio::spawn(async move { client.get("/held").await })
}

pub(crate) async fn counted(lab: &Lab, line: &str) {
    eventually(line, async || lab.metrics().lines().any(|each| each == line)).await;
}

/// Answers every request with `answer` and counts them; an empty answer closes instead.
pub(crate) async fn answering(answer: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&count);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let counter = Arc::clone(&counter);
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                    counter.fetch_add(1, Ordering::SeqCst);
                    if answer.is_empty() || stream.write_all(answer.as_bytes()).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    (address, count)
}

pub(crate) const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded_and_requests_wait_for_them() {
    let origin = Origin::start().await;
    let mut service = policy::service(&[origin.address]);
    service.limits.connections = number(2);
    service.limits.pending = 3;
    let lab = one_worker().start(set(service));
    let mut tasks = Vec::new();
    for _ in 0..6 {
        tasks.push(held(&lab).await);
    }
    // Two are under way, three wait, whichever they are.
    eventually("one is refused", async || {
        tasks.iter().any(JoinHandle::is_finished)
    })
    .await;
    lab.recorder
        .look(|seen| assert_eq!(seen.verdicts, [(Verdict::Saturated, 503)]));
    eventually("two are there", async || origin.requests() == 2).await;
    origin.state.gate.add_permits(100);
    let mut statuses = Vec::new();
    for task in tasks {
        statuses.push(task.await.unwrap().status.as_u16());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 503]);
    assert_eq!(origin.state.connections.load(Ordering::SeqCst), 2);
    eventually("it is counted", async || {
        lab.metrics()
            .contains(r#"enforcer_upstream_overflows_total{bound="pending",service="orders"}"#)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_bounded() {
    let origin = Origin::start().await;
    for (pending, requests, bound) in [(0, 100, "connections"), (100, 1, "requests")] {
        let before = origin.requests();
        let mut service = policy::service(&[origin.address]);
        service.limits.connections = number(1);
        service.limits.pending = pending;
        service.limits.requests = number(requests);
        let lab = one_worker().start(set(service));
        let first = held(&lab).await;
        eventually("one is there", async || origin.requests() == before + 1).await;
        let mut client = Client::connect(&lab, H2).await;
        assert_eq!(client.get("/").await.status, 503);
        origin.state.gate.add_permits(1);
        assert_eq!(first.await.unwrap().status, 200);
        assert_eq!(client.get("/").await.status, 200);
        counted(
            &lab,
            &format!(r#"enforcer_upstream_overflows_total{{bound="{bound}",service="orders"}} 1"#),
        )
        .await;
        counted(
            &lab,
            r#"enforcer_requests_total{code_class="5xx",route="main",service="orders",verdict="saturated"} 1"#,
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_endpoint_leaves_requests_to_another() {
    let (a, b) = (Origin::start().await, Origin::start().await);
    let mut service = policy::service(&[a.address, b.address]);
    service.limits.connections = number(1);
    service.balance = Balance::Maglev(HashKey::Source);
    let lab = one_worker().start(set(service));
    let first = held(&lab).await;
    eventually("one is there", async || a.requests() + b.requests() == 1).await;
    let other = if a.requests() == 1 { &b } else { &a };
    let mut client = Client::connect(&lab, H1).await;
    for _ in 0..5 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(other.requests(), 5);
    a.state.gate.add_permits(1);
    b.state.gate.add_permits(1);
    assert_eq!(first.await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_are_tried_elsewhere_where_the_policy_says_so() {
    let (bad, tried) = answering(UNAVAILABLE).await;
    let good = Origin::start().await;
    let mut service = policy::service(&[bad, good.address]);
    service.balance = Balance::RoundRobin;
    service.retries.on.unavailable = true;
    service.retries.budget_percent = 100;
    let lab = one_worker().start(set(service.clone()));
    let mut client = Client::connect(&lab, H1).await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert!(tried.load(Ordering::SeqCst) >= 4);
    // What has a body may not be repeated.
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(
            client
                .send(client::post("/length", "x"))
                .await
                .unwrap()
                .status
                .as_u16(),
        );
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 503, 503]);
    service.retries.on.unavailable = false;
    lab.policies.replace(set(service));
    let mut statuses = vec![client.get("/").await.status, client.get("/").await.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 503]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_budget_bounds_what_is_sent_again() {
    let (bad, tried) = answering(UNAVAILABLE).await;
    let mut service = policy::service(&[bad]);
    service.retries.on.unavailable = true;
    service.retries.attempts = 10;
    service.retries.backoff = Duration::ZERO;
    service.retries.budget_percent = 0;
    service.retries.budget_per_second = 1;
    // Of any 10 s. A slow machine may take longer and so have more.
    let lab = one_worker().start(set(service.clone()));
    let mut client = Client::connect(&lab, H1).await;
    assert_eq!(client.get("/").await.status, 503);
    assert_eq!(tried.load(Ordering::SeqCst), 11, "ten in ten seconds");
    eventually("the budget is used up", async || {
        client.get("/").await;
        lab.metrics()
            .contains(r#"enforcer_upstream_overflows_total{bound="retry_budget",service="orders"}"#)
    })
    .await;
    counted(
        &lab,
        r#"enforcer_upstream_retries_total{cause="status",service="orders"} 10"#,
    )
    .await;

    service.limits.retries = 0;
    service.retries.budget_percent = 100;
    let lab = one_worker().start(set(service));
    let before = tried.load(Ordering::SeqCst);
    assert_eq!(Client::connect(&lab, H1).await.get("/").await.status, 503);
    assert_eq!(tried.load(Ordering::SeqCst), before + 1, "none may be sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn breaks_are_tried_elsewhere_unless_that_is_unsafe() {
    let (bad, tried) = answering("").await;
    let good = Origin::start().await;
    let mut service = policy::service(&[bad, good.address]);
    service.balance = Balance::RoundRobin;
    let lab = one_worker().start(set(service.clone()));
    let mut client = Client::connect(&lab, H2).await;
    for _ in 0..6 {
        assert_eq!(client.get("/").await.status, 200);
    }
    let before = tried.load(Ordering::SeqCst);
    let mut statuses = Vec::new();
    for _ in 0..2 {
        statuses.push(
            client
                .send(client::post("/length", "x"))
                .await
                .unwrap()
                .status
                .as_u16(),
        );
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 502]);
    assert_eq!(
        tried.load(Ordering::SeqCst),
        before + 1,
        "the POST was there once"
    );
    service.retries.on = RetryOn {
        reset: false,
        ..service.retries.on
    };
    lab.policies.replace(set(service));
    let mut statuses = vec![client.get("/").await.status, client.get("/").await.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 502]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_takes_no_longer_than_it_may() {
    let (slow, fast) = (Origin::start().await, Origin::start().await);
    let mut service = policy::service(&[slow.address, fast.address]);
    service.balance = Balance::RoundRobin;
    service.retries.per_try = Some(Duration::from_millis(100));
    fast.state.gate.add_permits(1);
    let lab = one_worker().start(set(service));
    let mut client = Client::connect(&lab, H1).await;
    assert_eq!(client.get("/held").await.status, 200);
    assert_eq!((slow.requests(), fast.requests()), (1, 1));
    counted(
        &lab,
        &format!(
            r#"enforcer_upstream_requests_total{{endpoint="{}",result="timed_out",service="orders"}} 1"#,
            slow.address
        ),
    )
    .await;
}
