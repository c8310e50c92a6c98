//! Which endpoint serves, and what happens when one does not.

use std::{net::SocketAddr, sync::atomic::Ordering, time::Duration};

use enforcer_gateway::signal::Verdict;
use enforcer_model::{Balance, Health, PolicySet};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::data_path::support::{
    Plan,
    client::{self, Client, H1, H2},
    eventually, in_time,
    origin::Origin,
    policy,
};

const OFTEN: Duration = Duration::from_millis(20);

fn one_worker() -> Plan {
    Plan {
        workers: 1,
        ..Plan::default()
    }
}

fn checked(endpoints: &[SocketAddr], interval: Duration) -> PolicySet {
    let mut service = policy::service(endpoints);
    service.health = Some(Health {
        path: "/healthz".into(),
        interval,
        timeout: Duration::from_millis(500),
        healthy_after: 2,
        unhealthy_after: 2,
    });
    policy::set(vec![policy::open_rule()], service)
}

/// An address where nothing listens.
fn nowhere() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn health_checks_take_an_endpoint_out_and_bring_it_back() {
    let (a, b) = (Origin::start().await, Origin::start().await);
    let lab = one_worker().start(checked(&[a.address, b.address], OFTEN));
    let mut client = Client::connect(&lab, H1).await;
    let gauge = |origin: &Origin, value| {
        let address = origin.address;
        let line = format!(r#"enforcer_endpoint_healthy{{endpoint="{address}",service="orders"}} {value}"#);
        lab.metrics().contains(&line)
    };

    a.state.healthy.store(false, Ordering::SeqCst);
    eventually("a is out", async || gauge(&a, 0)).await;
    let before = a.requests();
    for _ in 0..10 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!((a.requests(), b.requests() >= 10), (before, true));

    b.state.healthy.store(false, Ordering::SeqCst);
    eventually("b is out", async || gauge(&b, 0)).await;
    let reply = client.get("/").await;
    assert_eq!(
        (reply.status.as_u16(), &reply.headers["content-type"]),
        (503, &"application/problem+json".parse().unwrap())
    );
    lab.recorder
        .look(|seen| assert_eq!(seen.verdicts.last(), Some(&(Verdict::Upstream, 503))));

    a.state.healthy.store(true, Ordering::SeqCst);
    eventually("a is back", async || gauge(&a, 1)).await;
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(a.requests(), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_stays_out_when_its_checks_change() {
    let origin = Origin::start().await;
    origin.state.healthy.store(false, Ordering::SeqCst);
    let lab = one_worker().start(checked(&[origin.address], OFTEN));
    let mut client = Client::connect(&lab, H1).await;
    eventually("it is out", async || {
        client_sees(&mut Client::connect(&lab, H1).await, 503).await
    })
    .await;
    for interval in [OFTEN, Duration::from_secs(3600)] {
        lab.policies.replace(checked(&[origin.address], interval));
        assert!(client_sees(&mut client, 503).await, "{interval:?}");
    }
}

async fn client_sees(client: &mut Client, status: u16) -> bool {
    client.get("/").await.status == status
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_where_the_fewest_are_under_way() {
    let (a, b) = (Origin::start().await, Origin::start().await);
    let lab = one_worker().start(policy::open(&[a.address, b.address]));
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = Client::connect(&lab, H1).await;
        clients.push(tokio::spawn(async move { client.get("/held").await }));
    }
    eventually("four are under way", async || a.requests() + b.requests() == 4).await;
    assert_eq!((a.requests(), b.requests()), (2, 2));
    b.state.gate.add_permits(2);
    eventually("those at b have ended", async || {
        clients.iter().filter(|task| task.is_finished()).count() == 2
    })
    .await;
    let mut client = Client::connect(&lab, H1).await;
    for _ in 0..6 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!((a.requests(), b.requests()), (2, 8), "a is busy");
    a.state.gate.add_permits(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_round() {
    let (a, b, c) = (
        Origin::start().await,
        Origin::start().await,
        Origin::start().await,
    );
    let mut service = policy::service(&[a.address, b.address, c.address]);
    service.balance = Balance::RoundRobin;
    let lab = one_worker().start(policy::set(vec![policy::open_rule()], service));
    let mut client = Client::connect(&lab, H2).await;
    for _ in 0..9 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!((a.requests(), b.requests(), c.requests()), (3, 3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_gone_costs_no_request() {
    let origin = Origin::start().await;
    let lab = one_worker().start(policy::open(&[nowhere(), origin.address]));
    let mut client = Client::connect(&lab, H1).await;
    for _ in 0..6 {
        assert_eq!(
            client.send(client::post("/length", "abc")).await.unwrap().body,
            "3"
        );
    }
    let lab = one_worker().start(policy::open(&[nowhere()]));
    let reply = Client::connect(&lab, H1).await.get("/").await;
    assert_eq!(reply.status, 502);
    eventually("the attempt is counted", async || {
        lab.metrics()
            .contains(r#"result="connect_failed",service="orders"} 3"#)
    })
    .await;
}

/// Answers one request on each connection, announces that it stays open, reads the head of the next
/// request and closes: what a keep-alive timeout at the wrong moment looks like.
async fn closes_late() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                if stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                    stream
                        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                        .await
                        .unwrap();
                    // The gateway may also close an idle connection.
                    let _next = stream.read(&mut buffer).await;
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_may_be_repeated_is_repeated() {
    let lab = one_worker().start(policy::open(&[closes_late().await]));
    let mut client = Client::connect(&lab, H1).await;
    for _ in 0..3 {
        assert_eq!(
            client.get("/").await.status,
            200,
            "a second attempt on a new connection"
        );
    }
    let reply = client.send(client::post("/", "x")).await.unwrap();
    assert_eq!(reply.status, 502, "the service may have acted on it");
}

#[tokio::test(flavor = "multi_thread")]
async fn protocol_switches_and_nonsense_are_bad_gateways() {
    for answer in [
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 4096];
                assert!(stream.read(&mut buffer).await.unwrap() > 0);
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let lab = one_worker().start(policy::open(&[address]));
        assert_eq!(
            Client::connect(&lab, H1).await.get("/").await.status,
            502,
            "{answer}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_its_exchange() {
    let origin = Origin::start().await;
    let lab = one_worker().start(policy::open(&[origin.address]));
    let mut client = Client::connect(&lab, H2).await;
    let waiting = client.start(client::get("/held"));
    assert!(
        tokio::time::timeout(Duration::from_millis(200), waiting)
            .await
            .is_err()
    );
    drop(client);
    eventually("it is counted", async || {
        lab.metrics()
            .contains(r#"result="abandoned",service="orders"} 1"#)
    })
    .await;
    lab.recorder
        .look(|seen| assert_eq!(seen.verdicts, [(Verdict::Invalid, 499)]));
    let mut client = in_time("another client", Client::connect(&lab, H2)).await;
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_resolved() {
    let origin = Origin::start().await;
    let mut service = policy::service(&[]);
    service.endpoints = vec![policy::endpoint(&format!("localhost:{}", origin.address.port()))];
    let lab = one_worker().start(policy::set(vec![policy::open_rule()], service));
    // It may have an IPv6 address too, where the origin does not listen.
    eventually("localhost is reached", async || {
        Client::connect(&lab, H1).await.get("/").await.status == 200
    })
    .await;
    assert_eq!(origin.last().target, "/");
}
