//! Services that speak HTTP/2: whether they do, and what they say they have not acted on.

use std::{net::SocketAddr, sync::Arc};

use enforcer_model::{PolicySet, Protocol};
use h2::Reason;
use http::Response;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use crate::data_path::support::{
    Plan,
    client::{Client, H1, H2, post},
    eventually, in_time,
    pki::Pki,
    policy,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

fn set(address: SocketAddr) -> PolicySet {
    let mut service = policy::service(&[address]);
    service.protocol = Protocol::Http2;
    policy::set(vec![policy::open_rule()], service)
}

/// A frame on stream 0, without flags (RFC 9113 section 4.1).
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, 0, 0, 0, 0, 0][..], payload].concat()
}

/// Says GOAWAY after the first request, of which it has done nothing, and goes on listening to what comes.
async fn go_away(mut stream: TcpStream) {
    let mut preface = [0; PREFACE.len()];
    stream.read_exact(&mut preface).await.unwrap();
    assert_eq!(preface, PREFACE);
    stream.write_all(&frame(SETTINGS, &[])).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut payload).await.unwrap();
        if head[3] == HEADERS {
            break;
        }
    }
    // The last stream that was looked at is 0, and nothing is wrong.
    stream.write_all(&frame(GOAWAY, &[0; 8])).await.unwrap();
    let mut rest = Vec::new();
    // However the gateway ends it.
    drop(stream.read_to_end(&mut rest).await);
}

/// Refuses the first stream of its first connection, answers all others, and tells which it did.
async fn refuse_first(listener: TcpListener, told: mpsc::UnboundedSender<&'static str>) {
    let mut first = true;
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let told = told.clone();
        let refuses = std::mem::replace(&mut first, false);
        tokio::spawn(async move {
            let mut refuses = refuses;
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                assert_eq!(request.method(), "POST");
                if std::mem::replace(&mut refuses, false) {
                    told.send("refused").unwrap();
                    respond.send_reset(Reason::REFUSED_STREAM);
                } else {
                    told.send("answered").unwrap();
                    respond.send_response(Response::new(()), true).unwrap();
                }
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_service_refuses_is_sent_again_whatever_its_method() {
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, mut heard) = mpsc::unbounded_channel();
    tokio::spawn(refuse_first(listener, told));
    let lab = Plan::default().start(set(address));
    let mut client = Client::connect(&lab, H2).await;
    let reply = in_time("an answer", client.send(post("/", ""))).await.unwrap();
    assert_eq!(reply.status, 200);
    assert_eq!(heard.recv().await, Some("refused"));
    assert_eq!(heard.recv().await, Some("answered"));
    let counted = "enforcer_upstream_retries_total{cause=\"refused\",service=\"orders\"} 1";
    eventually("the retry is counted", async || lab.metrics().contains(counted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_with_a_body_is_not_sent_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, mut heard) = mpsc::unbounded_channel();
    tokio::spawn(refuse_first(listener, told));
    let lab = Plan::default().start(set(address));
    let mut client = Client::connect(&lab, H1).await;
    let reply = in_time("an answer", client.send(post("/", "x"))).await.unwrap();
    assert_eq!(reply.status, 502);
    assert_eq!(heard.recv().await, Some("refused"));
    let reply = in_time("an answer", client.send(post("/", "x"))).await.unwrap();
    assert_eq!(reply.status, 200);
    assert_eq!(heard.recv().await, Some("answered"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_service_that_goes_away_has_not_looked_at_is_sent_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (leaving, _) = listener.accept().await.unwrap();
        tokio::spawn(go_away(leaving));
        let (staying, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(staying).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            respond.send_response(Response::new(()), true).unwrap();
        }
    });
    let lab = Plan::default().start(set(address));
    let mut client = Client::connect(&lab, H1).await;
    let reply = in_time("an answer", client.send(post("/", ""))).await.unwrap();
    assert_eq!(reply.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_with_tls_that_does_not_agree_to_http2_is_not_spoken_to() {
    let pki = Pki::of("services");
    pki.write_named("origin", "orders.internal", 1);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = pki.acceptor("origin", &[]);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let mut bytes = Vec::new();
                    drop(stream.read_to_end(&mut bytes).await);
                    assert_eq!(bytes, b"", "nothing is said to it");
                }
            });
        }
    });
    let mut set = set(address);
    let service = Arc::make_mut(&mut set.services[0]);
    service.endpoints[0].https = true;
    service.tls.ca = Some(pki.path("ca.pem"));
    service.tls.server_name = Some("orders.internal".into());
    let lab = Plan::default().start(set);
    let mut client = Client::connect(&lab, H1).await;
    assert_eq!(client.get("/").await.status, 502);
}
