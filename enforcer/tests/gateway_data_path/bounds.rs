//! What of a service may be in use, what is sent again, and what is taken out.

use std::{
    net::SocketAddr,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use enforcer::{
    gateway::signal::Verdict,
    policy::model::{Balance, HashKey, Outliers, PolicySet, RetryOn, Service},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

use crate::support::{
    Lab, Plan,
    client::{self, Client, H1, H2, Reply},
    eventually,
    origin::Origin,
    policy,
};

fn one_worker() -> Plan {
    Plan {
        workers: 1,
        ..Plan::default()
    }
}

fn number(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

fn set(service: Service) -> PolicySet {
    policy::set(vec![policy::open_rule()], service)
}

/// Sends a request on a connection of its own.
async fn held(lab: &Lab) -> JoinHandle<Reply> {
    let mut client = Client::connect(lab, H1).await;
    tokio::spawn(async move { client.get("/held").await })
}

async fn counted(lab: &Lab, line: &str) {
    eventually(line, async || lab.metrics().lines().any(|each| each == line)).await;
}

/// Answers every request with `answer` and counts them; an empty answer closes instead.
async fn answering(answer: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
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

const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";

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

/// Round robin over a bad endpoint and a good one, with that law.
async fn with_outlier(answer: &'static str, law: Outliers) -> (Lab, SocketAddr, Arc<AtomicUsize>, Origin) {
    let (bad, tried) = answering(answer).await;
    let good = Origin::start().await;
    let mut service = policy::service(&[bad, good.address]);
    service.balance = Balance::RoundRobin;
    service.outliers = Some(law);
    (one_worker().start(set(service)), bad, tried, good)
}

async fn ejected(lab: &Lab, endpoint: SocketAddr, value: u8) {
    counted(
        lab,
        &format!(r#"enforcer_endpoint_ejected{{endpoint="{endpoint}",service="orders"}} {value}"#),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_keeps_failing_is_taken_out_and_comes_back() {
    let law = Outliers {
        consecutive_5xx: number(3),
        base_ejection: Duration::from_millis(300),
        ..Outliers::default()
    };
    let (lab, bad, tried, good) = with_outlier(UNAVAILABLE, law).await;
    let mut client = Client::connect(&lab, H1).await;
    // Every other one fails, until three have.
    for _ in 0..6 {
        client.get("/").await;
    }
    eventually("it is out", async || {
        lab.metrics().contains(&format!(
            r#"enforcer_endpoint_ejections_total{{cause="errors",endpoint="{bad}",service="orders"}} 1"#
        ))
    })
    .await;
    ejected(&lab, bad, 0).await;
    let before = tried.load(Ordering::SeqCst);
    assert!(before >= 3 && good.requests() >= 3);
    eventually("it is used again", async || {
        client.get("/").await;
        tried.load(Ordering::SeqCst) > before
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_out_gets_no_request_and_the_last_one_stays() {
    let law = Outliers {
        consecutive_5xx: number(2),
        base_ejection: Duration::from_secs(3600),
        max_ejection: Duration::from_secs(3600),
        max_ejected_percent: 100,
        ..Outliers::default()
    };
    let (lab, bad, tried, good) = with_outlier(UNAVAILABLE, law).await;
    let mut client = Client::connect(&lab, H1).await;
    for _ in 0..4 {
        client.get("/").await;
    }
    ejected(&lab, bad, 1).await;
    let before = tried.load(Ordering::SeqCst);
    for _ in 0..10 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(tried.load(Ordering::SeqCst), before);
    // A policy without the law lets it in again.
    let service = policy::service(&[bad, good.address]);
    lab.policies.replace(set(service));
    ejected(&lab, bad, 0).await;

    let mut alone = policy::service(&[bad]);
    alone.outliers = Some(law);
    let lab = one_worker().start(set(alone));
    let mut client = Client::connect(&lab, H1).await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.status, 503);
    }
    assert_eq!(
        tried.load(Ordering::SeqCst),
        before + 10,
        "the only one is never out"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn success_rates_are_judged() {
    let law = Outliers {
        consecutive_5xx: number(1000),
        success_rate: Some(enforcer::policy::model::SuccessRate {
            below: 90,
            requests: number(5),
        }),
        interval: Duration::from_secs(1),
        base_ejection: Duration::from_secs(3600),
        max_ejection: Duration::from_secs(3600),
        ..Outliers::default()
    };
    let (lab, bad, _tried, _good) = with_outlier(UNAVAILABLE, law).await;
    let mut client = Client::connect(&lab, H1).await;
    eventually("it is out", async || {
        client.get("/").await;
        lab.metrics().contains(&format!(
            r#"enforcer_endpoint_ejections_total{{cause="success_rate",endpoint="{bad}",service="orders"}} 1"#
        ))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_stay_with_their_endpoints() {
    let origins = [
        Origin::start().await,
        Origin::start().await,
        Origin::start().await,
    ];
    let addresses: Vec<_> = origins.iter().map(|origin| origin.address).collect();
    let requests = || origins.iter().map(Origin::requests).collect::<Vec<_>>();
    for (balance, path, field) in [
        (
            Balance::Maglev(HashKey::Header("x-user".parse().unwrap())),
            "/",
            Some(("x-user", "u7")),
        ),
        (
            Balance::RingHash(HashKey::Cookie("sid".into())),
            "/",
            Some(("cookie", "a=b; sid=u7; c=d")),
        ),
        (
            Balance::Maglev(HashKey::Query("user".into())),
            "/?a=b&user=u7",
            None,
        ),
        (Balance::RingHash(HashKey::Path), "/u7", None),
        (Balance::Maglev(HashKey::Source), "/", None),
    ] {
        let mut service = policy::service(&addresses);
        service.balance = balance;
        // Over two workers: they agree.
        let lab = Plan::default().start(set(service));
        let before = requests();
        for _ in 0..8 {
            let mut client = Client::connect(&lab, H1).await;
            let mut request = client::get(path);
            if let Some((name, value)) = field {
                request.headers_mut().insert(name, value.parse().unwrap());
            }
            assert_eq!(client.send(request).await.unwrap().status, 200);
        }
        let mut more: Vec<_> = requests()
            .iter()
            .zip(before)
            .map(|(now, before)| now - before)
            .collect();
        more.sort_unstable();
        assert_eq!(more, [0, 0, 8], "{path} {field:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_zone_comes_first() {
    let (near, far) = (Origin::start().await, Origin::start().await);
    let mut service = policy::service(&[far.address, near.address]);
    service.endpoints[0].zone = Some("b".into());
    service.endpoints[1].zone = Some("a".into());
    service.limits.connections = number(1);
    let plan = Plan {
        zone: Some("a".into()),
        ..one_worker()
    };
    let lab = plan.start(set(service));
    let mut client = Client::connect(&lab, H1).await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!((near.requests(), far.requests()), (10, 0));
    let first = held(&lab).await;
    eventually("the near one is full", async || near.requests() == 11).await;
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(far.requests(), 1, "the other zone helps out");
    near.state.gate.add_permits(1);
    assert_eq!(first.await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn loss_and_return_of_an_endpoint_under_load_fail_no_request() {
    let (stays, goes) = (Origin::start().await, Origin::start().await);
    let address = goes.address;
    let mut service = policy::service(&[stays.address, address]);
    service.outliers = Some(Outliers {
        base_ejection: Duration::from_millis(500),
        ..Outliers::default()
    });
    let lab = Arc::new(Plan::default().start(set(service)));
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let done = Arc::new(AtomicUsize::new(0));
    let mut load = Vec::new();
    for number in 0..8 {
        let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
        let mut client = Client::connect(&lab, if number % 2 == 0 { H1 } else { H2 }).await;
        load.push(tokio::spawn(async move {
            let mut failed = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                // What has a body is safe too while the endpoint has not seen it.
                let reply = client.get("/slow").await;
                if reply.status != 200 {
                    failed.push(reply.status.as_u16());
                }
                done.fetch_add(1, Ordering::SeqCst);
            }
            failed
        }));
    }
    let more = async |count: usize| {
        let before = done.load(Ordering::SeqCst);
        eventually("requests go on", async || {
            done.load(Ordering::SeqCst) >= before + count
        })
        .await;
    };
    let mut goes = Some(goes);
    for _ in 0..2 {
        more(50).await;
        // The listener and all connections end, with requests on them.
        goes.take().unwrap().stop().await;
        more(100).await;
        goes = Some(Origin::start_at(address).await);
        let back = goes.as_ref().unwrap();
        eventually("it serves again", async || back.requests() > 0).await;
    }
    stop.store(true, Ordering::SeqCst);
    for task in load {
        assert_eq!(task.await.unwrap(), Vec::<u16>::new());
    }
}
