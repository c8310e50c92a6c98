//! Copies of requests to another service.

use std::{sync::Arc, time::Duration};

use enforcer_model::{Mirror, PolicySet, Service};
use http::{Request, StatusCode};
use tokio::{io::AsyncWriteExt, net::TcpListener, task::JoinSet};

use crate::data_path::support::{
    Lab, Plan,
    client::{Client, H1, H2, chunked, get, post, tls},
    eventually, in_time,
    origin::Origin,
    pki::HOST,
    policy,
};

fn mirrored(origin: &Origin, to: std::net::SocketAddr, percent: u8) -> PolicySet {
    let mut rule = policy::open_rule();
    rule.timeout = Duration::from_secs(5);
    rule.routing.mirror = Some(Mirror {
        service: policy::name("shadow"),
        percent,
    });
    let mut set = policy::set(vec![rule], policy::service(&[origin.address]));
    let shadow = Service {
        name: policy::name("shadow"),
        ..policy::service(&[to])
    };
    set.services.push(Arc::new(shadow));
    set
}

/// How many copies have had that result.
fn counted(lab: &Lab, result: &str) -> usize {
    let start =
        format!(r#"enforcer_mirrored_requests_total{{result="{result}",route="main",service="shadow"}} "#);
    let metrics = lab.metrics();
    let value = metrics.lines().find_map(|line| line.strip_prefix(&start));
    value.map_or(0, |value| value.parse().unwrap())
}

async fn count_becomes(lab: &Lab, result: &str, count: usize) {
    eventually(&format!("{count} are {result}"), async || {
        counted(lab, result) == count
    })
    .await;
}

#[tokio::test]
async fn a_copy_is_what_the_service_got() {
    let [origin, shadow] = [Origin::start().await, Origin::start().await];
    let lab = Plan::default().start(mirrored(&origin, shadow.address, 100));
    let mut sent = 0;
    for alpn in [H1, H2] {
        let mut client = Client::connect(&lab, alpn).await;
        for (request, answer) in [
            (get("/a?b=c"), "ok"),
            (post("/length", "x".repeat(64 << 10)), "65536"),
            (post("/length", ""), "0"),
        ] {
            let target = request.uri().to_string();
            let reply = in_time(&target, client.send(request)).await.unwrap();
            assert_eq!((reply.status, &*reply.body), (StatusCode::OK, answer.as_bytes()));
            sent += 1;
            count_becomes(&lab, "answered", sent).await;
            let (got, copy) = (origin.last(), shadow.last());
            assert_eq!((&got.target, &got.headers), (&copy.target, &copy.headers));
            assert_eq!(got.target, target);
        }
    }
    assert_eq!(shadow.requests(), sent);
    // What the copy's service says goes into no account of the route's own service.
    assert_eq!(origin.requests(), sent);
}

#[tokio::test]
async fn what_is_large_or_of_unknown_length_is_not_copied() {
    let [origin, shadow] = [Origin::start().await, Origin::start().await];
    let lab = Plan::default().start(mirrored(&origin, shadow.address, 100));
    let mut count = 0;
    for alpn in [H1, H2] {
        let mut client = Client::connect(&lab, alpn).await;
        let streamed = Request::post("/length").body(chunked("abc")).unwrap();
        for (request, answer) in [
            (post("/length", "x".repeat((64 << 10) + 1)), "65537"),
            (streamed, "3"),
        ] {
            let reply = in_time("answer", client.send(request)).await.unwrap();
            assert_eq!(&*reply.body, answer.as_bytes());
            count += 1;
            count_becomes(&lab, "too_large", count).await;
        }
    }
    assert_eq!(shadow.requests(), 0);
}

#[tokio::test]
async fn a_request_that_breaks_off_is_not_copied() {
    let [origin, shadow] = [Origin::start().await, Origin::start().await];
    let lab = Plan::default().start(mirrored(&origin, shadow.address, 100));
    let mut stream = tls(lab.address, lab.pki.client_config(None, H1)).await.unwrap();
    let head = format!("POST /length HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 9\r\n\r\nfive.");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    eventually("it has come to the service", async || origin.requests() == 1).await;
    drop(stream);
    count_becomes(&lab, "unfinished", 1).await;
    assert_eq!(shadow.requests(), 0);
}

#[tokio::test]
async fn a_part_of_the_requests_is_copied() {
    let [origin, shadow] = [Origin::start().await, Origin::start().await];
    let lab = Plan::default().start(mirrored(&origin, shadow.address, 25));
    let mut client = Client::connect(&lab, H2).await;
    for _ in 0..400 {
        client.get("/").await;
    }
    // 100 are expected, and six standard deviations are 52.
    eventually("some are copied", async || shadow.requests() >= 48).await;
    count_becomes(&lab, "answered", shadow.requests()).await;
    assert!(shadow.requests() <= 152, "{} of 400", shadow.requests());
}

#[tokio::test]
async fn a_service_that_never_answers_a_copy_delays_and_fails_nothing() {
    let origin = Origin::start().await;
    // It accepts, and then says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let mut kept = JoinSet::new();
    kept.spawn(async move {
        let mut streams = Vec::new();
        loop {
            streams.push(silent.accept().await.unwrap());
        }
    });
    let plan = Plan {
        workers: 1,
        ..Plan::default()
    };
    let lab = plan.start(mirrored(&origin, address, 100));
    let mut client = Client::connect(&lab, H2).await;
    for _ in 0..100 {
        assert_eq!(client.get("/").await.status, StatusCode::OK);
    }
    // 64 are under way, and the others have none.
    eventually("more than 64 are refused", async || {
        counted(&lab, "saturated") > 0
    })
    .await;
    let saturated = counted(&lab, "saturated");
    count_becomes(&lab, "failed", 100 - saturated).await;
    assert_eq!(origin.requests(), 100);
    assert_eq!(counted(&lab, "answered"), 0);
}

#[tokio::test]
async fn a_service_that_is_not_there_fails_copies_alone() {
    let origin = Origin::start().await;
    let nobody = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let lab = Plan::default().start(mirrored(&origin, nobody, 100));
    let mut client = Client::connect(&lab, H1).await;
    for _ in 0..5 {
        assert_eq!(client.get("/").await.status, StatusCode::OK);
    }
    count_becomes(&lab, "failed", 5).await;
    // Counted no longer once nothing is copied.
    lab.policies.replace(policy::open(&[origin.address]));
    eventually("the counters are gone", async || {
        !lab.metrics().contains("enforcer_mirrored_requests_total")
    })
    .await;
}
