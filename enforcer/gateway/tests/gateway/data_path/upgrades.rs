//! Connections that are switched to WebSocket, by real clients, to a real server.

use std::{
    net::SocketAddr,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use enforcer_gateway::config::Timeouts;
use enforcer_model::{Credential, PolicySet, Revocation, Upgrade, flow::Whom};
use enforcer_tls::config::ClientCertificates;
use futures_util::{SinkExt, StreamExt};
use http::{Method, Request, StatusCode};
use hyper::{client::conn::http2, ext::Protocol};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message, client::IntoClientRequest, protocol::Role},
};

use crate::data_path::support::{
    Lab, PATIENCE, Plan,
    client::{self, Client, H1, H2, full},
    corp::Corp,
    eventually, in_time,
    origin::Origin,
    pki::HOST,
    policy,
};

const CLIENT: &str = "spiffe://example.com/ns/shop/sa/chat";

/// A WebSocket server that says everything again.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else {
                    return;
                };
                while let Some(Ok(message)) = socket.next().await {
                    // It ends with its client.
                    if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// A service that answers the first request with `head` and then says every byte again until the end of
/// the client's half, which it answers with `done`.
async fn bytes(head: impl Fn(&str) -> String + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => request.push(byte),
                    Err(_) => break,
                }
            }
            let answer = head(&String::from_utf8(request).unwrap());
            tokio::spawn(async move {
                stream.write_all(answer.as_bytes()).await.unwrap();
                let (mut read, mut write) = stream.split();
                if tokio::io::copy(&mut read, &mut write).await.is_ok() {
                    write.write_all(b"done").await.unwrap();
                }
            });
        }
    });
    address
}

/// The right answer to the key of RFC 6455 section 1.3.
fn switched(_: &str) -> String {
    "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
     sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        .to_owned()
}

const ASK: &str = "GET /chat HTTP/1.1\r\nhost: api.example.com\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fn set(service: SocketAddr, upgrade: &[Upgrade]) -> PolicySet {
    let mut rule = policy::open_rule();
    rule.routing.upgrade = upgrade.to_vec();
    policy::set(vec![rule], policy::service(&[service]))
}

/// A WebSocket over HTTP/1.1, with a client certificate.
async fn over_http1(
    lab: &Lab,
    token: Option<&str>,
) -> tungstenite::Result<WebSocketStream<impl AsyncRead + AsyncWrite + Unpin + use<>>> {
    let config = lab.pki.client_config(Some(lab.pki.client(CLIENT)), H1);
    let stream = client::tls(lab.address, config).await?;
    let mut request = format!("wss://{HOST}/chat").into_client_request()?;
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert("authorization", value);
    }
    Ok(tokio_tungstenite::client_async(request, stream).await?.0)
}

/// The answer to an Extended CONNECT, on a connection of HTTP/2 with a client certificate.
async fn extended_connect(
    lab: &Lab,
    protocol: &'static str,
    token: Option<&str>,
) -> http::Response<hyper::body::Incoming> {
    let config = lab.pki.client_config(Some(lab.pki.client(CLIENT)), H2);
    let stream = client::tls(lab.address, config).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    // After an answer the client has the gateway's settings, which allow it.
    let first = Request::get(format!("https://{HOST}/nothing"))
        .body(full(""))
        .unwrap();
    sender.send_request(first).await.unwrap();
    let mut request = Request::connect(format!("https://{HOST}/chat"))
        .extension(Protocol::from_static(protocol))
        .header("sec-websocket-version", "13");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    sender
        .send_request(request.body(full("")).unwrap())
        .await
        .unwrap()
}

async fn over_http2(lab: &Lab, token: Option<&str>) -> WebSocketStream<TokioIo<hyper::upgrade::Upgraded>> {
    let response = extended_connect(lab, "websocket", token).await;
    assert_eq!(response.status(), StatusCode::OK, "{response:?}");
    assert!(!response.headers().contains_key("sec-websocket-accept"));
    let stream = hyper::upgrade::on(response).await.unwrap();
    WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Client, None).await
}

async fn converse(socket: &mut WebSocketStream<impl AsyncRead + AsyncWrite + Unpin>) {
    for message in ["hello".to_owned(), "x".repeat(300_000), String::new()] {
        socket.send(Message::text(message.clone())).await.unwrap();
        let answer = in_time("an echo", socket.next()).await.unwrap().unwrap();
        assert_eq!(answer.into_text().unwrap().as_str(), message);
    }
}

fn with_certificates() -> Plan {
    Plan {
        client_certificates: ClientCertificates::Required,
        ..Plan::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_with_certificate_and_token() {
    let corp = Corp::new();
    let mut rule = policy::open_rule();
    rule.routing.upgrade = vec![Upgrade::WebSocket];
    rule.require = policy::certificate_and_token(CLIENT, "corp", "orders:read");
    let mut set = policy::set(vec![rule], policy::service(&[echo().await]));
    set.issuers = vec![Arc::new(corp.issuer())];
    let lab = with_certificates().start(set);
    let token = corp.token("orders:read");

    let refused = over_http1(&lab, None).await.map(|_| ()).unwrap_err();
    assert!(
        matches!(&refused, tungstenite::Error::Http(response) if response.status() == 401),
        "{refused}"
    );
    assert_eq!(extended_connect(&lab, "websocket", None).await.status(), 401);

    let mut first = over_http1(&lab, Some(&token)).await.unwrap();
    converse(&mut first).await;
    first.close(None).await.unwrap();
    while let Some(Ok(_)) = in_time("the end", first.next()).await {}
    let mut second = over_http2(&lab, Some(&token)).await;
    converse(&mut second).await;
    second.close(None).await.unwrap();
    while let Some(Ok(_)) = in_time("the end", second.next()).await {}
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_switched_without_a_rule_that_says_so() {
    let origin = Origin::start().await;
    let lab = with_certificates().start(set(origin.address, &[]));
    let refused = over_http1(&lab, None).await.map(|_| ()).unwrap_err();
    assert!(
        matches!(&refused, tungstenite::Error::Http(response) if response.status() == 200),
        "the service answers a plain GET: {refused}"
    );
    let seen = origin.last().headers;
    assert!(
        !seen.contains_key("upgrade") && !seen.contains_key("connection"),
        "{seen:?}"
    );
    assert_eq!(extended_connect(&lab, "websocket", None).await.status(), 501);
    let lab = with_certificates().start(set(echo().await, &[Upgrade::WebSocket]));
    assert_eq!(extended_connect(&lab, "connect-udp", None).await.status(), 501);
    let mut plain = Client::over(
        client::tls(
            lab.address,
            lab.pki.client_config(Some(lab.pki.client(CLIENT)), H1),
        )
        .await
        .unwrap(),
    )
    .await;
    let mut connect = Request::new(full(""));
    *connect.method_mut() = Method::CONNECT;
    *connect.uri_mut() = "api.example.com:443".parse().unwrap();
    let host = "api.example.com:443".parse().unwrap();
    connect.headers_mut().insert("host", host);
    assert_eq!(plain.send(connect).await.unwrap().status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn halves_close_one_by_one_and_bytes_sent_ahead_arrive() {
    let lab = Plan::default().start(set(bytes(switched).await, &[Upgrade::WebSocket]));
    let mut stream = client::tls(lab.address, lab.pki.client_config(None, H1))
        .await
        .unwrap();
    stream.write_all(format!("{ASK}ahead ").as_bytes()).await.unwrap();
    stream.write_all(b"later").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    in_time("the end", stream.read_to_string(&mut answer))
        .await
        .unwrap();
    let (head, rest) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 101 ") && head.contains("upgrade: websocket"),
        "{head}"
    );
    assert_eq!(
        rest, "ahead laterdone",
        "after the client's half the service still speaks"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_did_not_switch_for_this_request_gets_no_tunnel() {
    for wrong in [
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: AAAA\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    ] {
        let service = bytes(move |_| wrong.to_owned()).await;
        let lab = Plan::default().start(set(service, &[Upgrade::WebSocket]));
        let ask = ASK.replace("connection: upgrade", "connection: upgrade, close");
        let answer = String::from_utf8(client::raw(&lab, ask.as_bytes()).await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 502 "), "{wrong}\n{answer}");
    }
    // Over HTTP/2 a success would count as a switch.
    let service = bytes(|_| "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned()).await;
    let lab = with_certificates().start(set(service, &[Upgrade::WebSocket]));
    assert_eq!(extended_connect(&lab, "websocket", None).await.status(), 502);
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_ends_what_was_switched() {
    let mut rule = policy::open_rule();
    rule.routing.upgrade = vec![Upgrade::WebSocket];
    rule.require = policy::certificate(&[CLIENT]);
    let set = policy::set(vec![rule], policy::service(&[echo().await]));
    let lab = with_certificates().start(set);
    let mut first = over_http1(&lab, None).await.unwrap();
    let mut second = over_http2(&lab, None).await;
    converse(&mut first).await;
    converse(&mut second).await;
    let whom = Whom::Identity(format!("certificate {CLIENT}").into());
    let ended = lab.gateway.revoker().revoke(&whom).await;
    assert_eq!(ended.flows.len(), 2, "{ended:?}");
    let end = in_time("the end", first.next()).await;
    assert!(!matches!(end, Some(Ok(_))), "{end:?}");
    let end = in_time("the end", second.next()).await;
    assert!(!matches!(end, Some(Ok(_))), "{end:?}");
    lab.recorder.all_closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_ends_what_was_switched_by_it() {
    let corp = Corp::new();
    let mut rule = policy::open_rule();
    rule.routing.upgrade = vec![Upgrade::WebSocket];
    rule.require = policy::certificate_and_token(CLIENT, "corp", "orders:read");
    let mut set = policy::set(vec![rule], policy::service(&[echo().await]));
    set.issuers = vec![Arc::new(corp.issuer())];
    let lab = with_certificates().start(set);
    let token = |id: &str| corp.token_with(&serde_json::json!({"scope": "orders:read", "jti": id}));
    let (lost, kept) = (token("lost"), token("kept"));
    let mut first = over_http1(&lab, Some(&lost)).await.unwrap();
    let mut second = over_http2(&lab, Some(&lost)).await;
    let mut other = over_http1(&lab, Some(&kept)).await.unwrap();
    converse(&mut first).await;
    converse(&mut second).await;
    let what = Credential::Token {
        issuer: policy::name("corp"),
        id: "lost".into(),
    };
    let entry = Revocation {
        what,
        reason: None,
        until: None,
    };
    lab.policies.revocations().add(entry).unwrap();
    let ended = lab.gateway.revoker().end_revoked().await;
    assert_eq!(ended.flows.len(), 2, "{ended:?}");
    let end = in_time("the end", first.next()).await;
    assert!(!matches!(end, Some(Ok(_))), "{end:?}");
    let end = in_time("the end", second.next()).await;
    assert!(!matches!(end, Some(Ok(_))), "{end:?}");
    converse(&mut other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_ends_with_the_token_that_it_rests_on() {
    let corp = Corp::new();
    let mut rule = policy::open_rule();
    rule.routing.upgrade = vec![Upgrade::WebSocket];
    rule.require = policy::certificate_and_token(CLIENT, "corp", "orders:read");
    let mut set = policy::set(vec![rule], policy::service(&[echo().await]));
    let mut issuer = corp.issuer();
    issuer.leeway = Duration::ZERO;
    set.issuers = vec![Arc::new(issuer)];
    let lab = with_certificates().start(set);
    let lasting = corp.token("orders:read");
    let mut other = over_http1(&lab, Some(&lasting)).await.unwrap();
    converse(&mut other).await;
    // Where the machine was too slow to open both, again with more time.
    for seconds in [3, 30, 300] {
        let end = SystemTime::now() + Duration::from_secs(seconds);
        let exp = end.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let token = corp.token_with(&serde_json::json!({"scope": "orders:read", "exp": exp}));
        let Ok(mut first) = over_http1(&lab, Some(&token)).await else {
            continue;
        };
        let response = extended_connect(&lab, "websocket", Some(&token)).await;
        if response.status() != StatusCode::OK {
            continue;
        }
        let mut second = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        let both = async {
            while let Some(Ok(_)) = first.next().await {}
            // It may be reset.
            drop(second.read_to_end(&mut Vec::new()).await);
        };
        let patience = PATIENCE + Duration::from_secs(seconds);
        assert!(tokio::time::timeout(patience, both).await.is_ok(), "they go on");
        assert!(
            SystemTime::now() >= SystemTime::UNIX_EPOCH + Duration::from_secs(exp),
            "too early"
        );
        converse(&mut other).await;
        return;
    }
    panic!("no tunnel could be opened before its token expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_silent_for_too_long_ends_and_what_speaks_does_not() {
    let idle = Duration::from_millis(1500);
    let plan = Plan {
        timeouts: Timeouts {
            idle: Duration::from_secs(600),
            ..Timeouts::default()
        },
        ..with_certificates()
    };
    let mut rule = policy::open_rule();
    rule.routing.upgrade = vec![Upgrade::WebSocket];
    rule.routing.idle = Some(idle);
    let lab = plan.start(policy::set(vec![rule], policy::service(&[echo().await])));
    for http2 in [false, true] {
        let began = Instant::now();
        let end = if http2 {
            let mut socket = over_http2(&lab, None).await;
            converse(&mut socket).await;
            in_time("the end", socket.next()).await.map(|end| end.is_ok())
        } else {
            let mut socket = over_http1(&lab, None).await.unwrap();
            converse(&mut socket).await;
            in_time("the end", socket.next()).await.map(|end| end.is_ok())
        };
        assert_ne!(end, Some(true));
        assert!(began.elapsed() >= idle, "{:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_counts_as_a_connection_of_its_service() {
    let mut service = policy::service(&[echo().await]);
    service.limits.connections = NonZeroU32::MIN;
    service.limits.pending = 0;
    let mut rule = policy::open_rule();
    rule.routing.upgrade = vec![Upgrade::WebSocket];
    let lab = Plan {
        workers: 1,
        ..with_certificates()
    }
    .start(policy::set(vec![rule], service));
    let mut first = over_http1(&lab, None).await.unwrap();
    converse(&mut first).await;
    let refused = over_http1(&lab, None).await.map(|_| ()).unwrap_err();
    assert!(
        matches!(&refused, tungstenite::Error::Http(response) if response.status() == 503),
        "{refused}"
    );
    drop(first);
    eventually("its place is free", async || over_http1(&lab, None).await.is_ok()).await;
}
