//! Clients that take their time, and too many of them.

use std::{
    io,
    time::{Duration, Instant},
};

use bytes::Bytes;
use enforcer_gateway::{config::Timeouts, signal::Verdict};
use enforcer_tls::config::ClientCertificates;
use http::Request;
use http_body_util::{BodyExt, channel::Channel};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::data_path::support::{
    Lab, PATIENCE, Plan,
    client::{self, Client, H1, H2},
    eventually, in_time,
    origin::Origin,
    policy,
};

pub(crate) const SHORT: Duration = Duration::from_millis(200);
/// Longer than the service takes, however busy the machine is.
const PAUSE: Duration = Duration::from_secs(1);

async fn start(timeouts: Timeouts) -> (Lab, Origin) {
    let origin = Origin::start().await;
    let lab = Plan {
        timeouts,
        ..Plan::default()
    }
    .start(policy::open(&[origin.address]));
    (lab, origin)
}

/// How long until the gateway closes the connection.
async fn closed_after(stream: &mut (impl AsyncReadExt + Unpin)) -> Duration {
    let start = Instant::now();
    let mut buffer = Vec::new();
    drop(in_time("the gateway closes", stream.read_to_end(&mut buffer)).await);
    start.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_heads_are_cut() {
    let (lab, origin) = start(Timeouts {
        header: SHORT,
        ..Timeouts::default()
    })
    .await;
    for begin in ["", "GET / HTTP/1.1\r\nhost: api.example.com\r\nx-slow: "] {
        let mut stream = client::tls(lab.address, lab.pki.client_config(None, H1))
            .await
            .unwrap();
        stream.write_all(begin.as_bytes()).await.unwrap();
        let after = closed_after(&mut stream).await;
        assert!(
            (SHORT / 2..PATIENCE / 2).contains(&after),
            "{after:?} after {begin:?}"
        );
    }
    // One byte now and then does not help.
    let stream = client::tls(lab.address, lab.pki.client_config(None, H1))
        .await
        .unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let dribble = tokio::spawn(async move {
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(closed_after(&mut read).await < PATIENCE / 2);
    in_time("writing fails", dribble).await.unwrap();
    assert_eq!(origin.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_end() {
    let (lab, _origin) = start(Timeouts {
        idle: SHORT,
        ..Timeouts::default()
    })
    .await;
    for alpn in [H1, H2] {
        let mut client = Client::connect(&lab, alpn).await;
        assert_eq!(client.get("/").await.status, 200);
        eventually("it is closed", async || {
            lab.metrics()
                .contains(r#"enforcer_connections{listener="main"} 0"#)
        })
        .await;
        assert!(client.send(client::get("/")).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_may_take_longer_than_idling() {
    let (lab, origin) = start(Timeouts {
        idle: SHORT,
        header: SHORT,
        ..Timeouts::default()
    })
    .await;
    let mut client = Client::connect(&lab, H1).await;
    let held = tokio::spawn(async move { client.get("/held").await });
    eventually("it is under way", async || origin.requests() == 1).await;
    // What is to be shown is that time passes without harm.
    tokio::time::sleep(SHORT * 4).await;
    origin.state.gate.add_permits(1);
    assert_eq!(held.await.unwrap().body, "released");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_are_cut() {
    let timeouts = Timeouts {
        idle: SHORT,
        header: SHORT,
        ..Timeouts::default()
    };
    let (lab, _origin) = start(timeouts).await;
    for alpn in [H1, H2] {
        let mut client = Client::connect(&lab, alpn).await;
        let response = client.start(client::get("/large")).await.unwrap();
        assert_eq!(response.status(), 200);
        eventually("it is cut", async || {
            lab.metrics()
                .contains(r#"enforcer_connections{listener="main"} 0"#)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_an_upload_is_not_the_services() {
    let (lab, origin) = start(Timeouts::default()).await;
    for (index, alpn) in [H1, H2].into_iter().enumerate() {
        let (mut sender, body) = Channel::<Bytes, io::Error>::new(1);
        let request = Request::post("/length").body(body.boxed()).unwrap();
        let mut client = Client::connect(&lab, alpn).await;
        let reply = tokio::spawn(async move { client.send(request).await });
        sender.send_data("a".into()).await.unwrap();
        eventually("it is under way", async || origin.requests() == index + 1).await;
        // What is to be shown is that this time is not counted.
        tokio::time::sleep(PAUSE).await;
        sender.send_data("b".into()).await.unwrap();
        drop(sender);
        let reply = in_time("an answer", reply).await.unwrap().unwrap();
        assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &b"2"[..]));
        let latency = lab.recorder.look(|seen| *seen.latencies.last().unwrap());
        assert!(latency.is_some_and(|latency| latency < PAUSE), "{latency:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_answers_an_unfinished_body_has_no_latency() {
    let (lab, origin) = start(Timeouts::default()).await;
    let (mut sender, body) = Channel::<Bytes, io::Error>::new(1);
    let request = Request::post("/held").body(body.boxed()).unwrap();
    let mut client = Client::connect(&lab, H2).await;
    let response = tokio::spawn(async move { client.start(request).await.map(|response| response.status()) });
    sender.send_data("a".into()).await.unwrap();
    eventually("it is under way", async || origin.requests() == 1).await;
    origin.state.gate.add_permits(1);
    assert_eq!(in_time("an answer", response).await.unwrap().unwrap(), 200);
    lab.recorder.look(|seen| {
        assert_eq!(seen.verdicts, [(Verdict::Allowed, 200)]);
        assert_eq!(seen.latencies, [None]);
    });
    drop(sender);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_do_not_come_in_time_are_the_clients_fault() {
    let origin = Origin::start().await;
    let mut rule = policy::open_rule();
    rule.timeout = SHORT;
    let lab = Plan::default().start(policy::set(vec![rule], policy::service(&[origin.address])));
    for (alpn, count) in [(H1, 1), (H2, 2)] {
        let (mut sender, body) = Channel::<Bytes, io::Error>::new(1);
        let request = Request::post("/length").body(body.boxed()).unwrap();
        let mut client = Client::connect(&lab, alpn).await;
        let response =
            tokio::spawn(async move { client.start(request).await.map(|response| response.status()) });
        sender.send_data("a".into()).await.unwrap();
        assert_eq!(in_time("an answer", response).await.unwrap().unwrap(), 408);
        lab.recorder.look(|seen| {
            assert_eq!(seen.verdicts, vec![(Verdict::Invalid, 408); count]);
            assert_eq!(seen.latencies, vec![None; count]);
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_handshakes_are_cut() {
    let (lab, _origin) = start(Timeouts {
        handshake: SHORT,
        ..Timeouts::default()
    })
    .await;
    let mut stream = TcpStream::connect(lab.address).await.unwrap();
    stream.write_all(&[0x16, 0x03, 0x01]).await.unwrap();
    assert!(closed_after(&mut stream).await < PATIENCE / 2);
    let line = r#"enforcer_handshakes_total{listener="main",result="timed_out"} 1"#;
    eventually("it is counted", async || lab.metrics().contains(line)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_have_a_limit() {
    let origin = Origin::start().await;
    let plan = Plan {
        workers: 1,
        max_connections: 2,
        client_certificates: ClientCertificates::Optional,
        ..Plan::default()
    };
    let lab = plan.start(policy::open(&[origin.address]));
    // Of verified clients, which do not make room for others.
    let verified = async || {
        let certificate = lab.pki.client("spiffe://example.com/a");
        let config = lab.pki.client_config(Some(certificate), H1);
        Client::over(client::tls(lab.address, config).await.unwrap()).await
    };
    let (mut first, mut second) = (verified().await, verified().await);
    for client in [&mut first, &mut second] {
        assert_eq!(client.get("/").await.status, 200);
    }
    let config = lab.pki.client_config(None, H1);
    assert!(
        client::tls(lab.address, config.clone()).await.is_err(),
        "the third is refused"
    );
    assert_eq!(first.get("/").await.status, 200);
    drop(second);
    eventually("there is room again", async || {
        client::tls(lab.address, config.clone()).await.is_ok()
    })
    .await;
    assert!(
        lab.metrics()
            .contains(r#"enforcer_handshakes_total{listener="main",result="refused"}"#)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_under_way_have_a_limit_of_which_the_oldest_makes_room() {
    let origin = Origin::start().await;
    let plan = Plan {
        workers: 1,
        concurrent: Some(1),
        timeouts: Timeouts {
            handshake: PATIENCE * 2,
            ..Timeouts::default()
        },
        ..Plan::default()
    };
    let lab = plan.start(policy::open(&[origin.address]));
    let mut idler = TcpStream::connect(lab.address).await.unwrap();
    let line = r#"enforcer_connections{listener="main"} 1"#;
    eventually("the idler is there", async || lab.metrics().contains(line)).await;
    // Whoever does something gets through, and the idler is gone.
    assert_eq!(Client::connect(&lab, H1).await.get("/").await.status, 200);
    let mut rest = Vec::new();
    let read = in_time("the idler's end", idler.read_to_end(&mut rest)).await;
    assert!(read.is_err() || rest.is_empty());
    let line = r#"enforcer_handshakes_total{listener="main",result="refused"} 1"#;
    eventually("it is counted", async || lab.metrics().contains(line)).await;
}
