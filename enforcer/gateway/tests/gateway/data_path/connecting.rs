//! CONNECT: bytes that nobody looks at, where a rule says so, to where the rule leads.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use enforcer_model::{Credential, PolicySet, Requirement, Revocation, Rule, Upgrade};
use http::{Method, Request, Response, StatusCode};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::client::TlsStream;

use crate::data_path::support::{
    Lab, Plan,
    client::{self, Client, H1, H2, full},
    corp::Corp,
    eventually, in_time,
    origin::Origin,
    pki::HOST,
    policy,
};

/// A service that speaks first, then says every byte again, and `done` at the end of the client's half.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                stream.write_all(b"hi").await.unwrap();
                let (mut read, mut write) = stream.split();
                if tokio::io::copy(&mut read, &mut write).await.is_ok() {
                    drop(write.write_all(b"done").await);
                }
            });
        }
    });
    address
}

fn connects() -> Rule {
    let mut rule = policy::open_rule();
    rule.methods = vec![Method::CONNECT];
    rule.routing.upgrade = vec![Upgrade::Connect];
    rule
}

async fn over_http1(lab: &Lab, fields: &str) -> (String, TlsStream<TcpStream>) {
    let config = lab.pki.client_config(None, H1);
    let mut stream = client::tls(lab.address, config).await.unwrap();
    let head = format!("CONNECT {HOST}:5432 HTTP/1.1\r\nhost: {HOST}:5432\r\n{fields}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(in_time("an answer", stream.read_u8()).await.unwrap());
    }
    (String::from_utf8(answer).unwrap(), stream)
}

async fn over_http2(lab: &Lab, authority: &str) -> hyper::Result<Response<Incoming>> {
    let config = lab.pki.client_config(None, H2);
    let stream = client::tls(lab.address, config).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::connect(authority).body(full("")).unwrap();
    in_time("an answer", sender.send_request(request)).await
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let mut first = [0; 2];
    in_time("the service", stream.read_exact(&mut first))
        .await
        .unwrap();
    assert_eq!(&first, b"hi");
    let said = vec![9; 1 << 20];
    let mut heard = vec![0; said.len()];
    let (mut read, mut write) = tokio::io::split(stream);
    let both = async {
        tokio::try_join!(write.write_all(&said), read.read_exact(&mut heard)).unwrap();
    };
    in_time("the echo", both).await;
    assert!(heard == said);
    write.shutdown().await.unwrap();
    let mut rest = Vec::new();
    in_time("the other half", read.read_to_end(&mut rest))
        .await
        .unwrap();
    assert_eq!(rest, b"done");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_go_both_ways_over_both_protocols() {
    let set = policy::set(vec![connects()], policy::service(&[echo().await]));
    let lab = Plan::default().start(set);
    let (head, stream) = over_http1(&lab, "").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(
        !head.contains("content-length") && !head.contains("transfer-encoding"),
        "{head}"
    );
    converse(stream).await;
    let response = over_http2(&lab, &format!("{HOST}:5432")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    converse(TokioIo::new(hyper::upgrade::on(response).await.unwrap())).await;
    let line = r#"enforcer_connections{listener="main"} 0"#;
    eventually("nothing is left", async || lab.metrics().contains(line)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_opened_without_a_rule_that_says_so() {
    let origin = Origin::start().await;
    let lab = Plan::default().start(policy::open(&[origin.address]));
    let (head, mut stream) = over_http1(&lab, "").await;
    // What a hasty client has sent behind it is no request.
    drop(
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: api.example.com\r\n\r\n")
            .await,
    );
    drop(in_time("the end", stream.read_to_end(&mut Vec::new())).await);
    assert!(
        head.starts_with("HTTP/1.1 404 "),
        "a rule for any method is not for this one: {head}"
    );
    let refused = over_http2(&lab, &format!("{HOST}:5432")).await.unwrap();
    assert_eq!(refused.status(), StatusCode::NOT_FOUND);

    // And a rule that is for CONNECT is for nothing else, and for its own hosts.
    let lab = Plan::default().start(policy::set(vec![connects()], policy::service(&[echo().await])));
    assert_eq!(Client::connect(&lab, H1).await.get("/").await.status, 404);
    let refused = over_http2(&lab, "elsewhere.example.com:5432").await.unwrap();
    assert_eq!(refused.status(), StatusCode::NOT_FOUND);
    let refused = over_http2(&lab, HOST).await.unwrap();
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "without a port");
    assert_eq!(origin.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_asks_for_proofs_and_the_tunnel_ends_with_its_revocation() {
    let corp = Corp::new();
    let rule = Rule {
        require: match policy::certificate_and_token("spiffe://a/b", "corp", "orders:read") {
            Requirement::Proof { token, .. } => Requirement::Proof {
                mtls: None,
                token,
                api_key: None,
            },
            other => other,
        },
        ..connects()
    };
    let mut set: PolicySet = policy::set(vec![rule], policy::service(&[echo().await]));
    set.issuers = vec![Arc::new(corp.issuer())];
    let lab = Plan::default().start(set);
    let (head, _stream) = over_http1(&lab, "").await;
    assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
    let fields = format!("authorization: Bearer {}\r\n", corp.token("orders:read"));
    let (head, mut stream) = over_http1(&lab, &fields).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut first = [0; 2];
    in_time("the service", stream.read_exact(&mut first))
        .await
        .unwrap();
    let what = Credential::Token {
        issuer: policy::name("corp"),
        id: "1".into(),
    };
    let entry = Revocation {
        what,
        reason: None,
        until: None,
    };
    lab.policies.revocations().add(entry).unwrap();
    assert_eq!(lab.gateway.revoker().end_revoked().await.flows.len(), 1);
    assert!(in_time("the end", stream.read_u8()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_not_there_and_silence() {
    let gone = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let lab = Plan::default().start(policy::set(vec![connects()], policy::service(&[gone])));
    let (head, _stream) = over_http1(&lab, "").await;
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");

    let mut rule = connects();
    rule.routing.idle = Some(Duration::from_millis(300));
    let lab = Plan::default().start(policy::set(vec![rule], policy::service(&[echo().await])));
    let (_, mut stream) = over_http1(&lab, "").await;
    let mut all = Vec::new();
    drop(in_time("the end", stream.read_to_end(&mut all)).await);
    assert_eq!(all, b"hi");
}
