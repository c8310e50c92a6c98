//! What reaches the service, and what comes back.

use std::time::Duration;

use bytes::Bytes;
use enforcer_gateway::signal::Verdict;
use enforcer_model::PathMatch;
use http::{Method, Request};
use http_body_util::BodyExt;

use crate::data_path::support::{
    Plan,
    client::{self, Client, H1, H2, chunked, full},
    in_time,
    origin::Origin,
    policy,
};

#[tokio::test(flavor = "multi_thread")]
async fn both_protocols_are_served() {
    let origin = Origin::start().await;
    let lab = Plan::default().start(policy::open(&[origin.address]));
    for (alpn, http2) in [(H1, false), (H2, true)] {
        let mut client = Client::connect(&lab, alpn).await;
        assert_eq!(matches!(client, Client::Http2(_)), http2);
        for _ in 0..3 {
            let reply = client.get("/a%2Db//c/../d?q=%2F").await;
            assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &b"ok"[..]));
        }
        let seen = origin.last();
        assert_eq!(
            seen.target, "/a-b/d?q=%2F",
            "what is matched is what is forwarded"
        );
        assert_eq!(seen.headers["host"], "api.example.com");
        assert_eq!(seen.headers["x-forwarded-proto"], "https");
        assert_eq!(seen.headers["x-forwarded-for"], "127.0.0.1");
    }
    let connections = origin.state.connections.load(std::sync::atomic::Ordering::SeqCst);
    assert!(
        connections <= 2,
        "{connections} connections: at most one for each worker"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_do_not_say_who_they_are() {
    let origin = Origin::start().await;
    let lab = Plan::default().start(policy::open(&[origin.address]));
    for alpn in [H1, H2] {
        let mut request = client::get("/");
        for (name, value) in [
            ("x-enforcer-identity", "admin"),
            ("x_enforcer_identity", "admin"),
            ("x-forwarded-client-cert", "Subject=admin"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-kept", "1"),
        ] {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        request.headers_mut().append("cookie", "a=1".parse().unwrap());
        request.headers_mut().append("cookie", "b=2".parse().unwrap());
        Client::connect(&lab, alpn).await.send(request).await.unwrap();
        let seen = origin.last().headers;
        assert!(
            !seen
                .iter()
                .any(|(_, value)| value.to_str().unwrap().contains("admin")),
            "{seen:?}"
        );
        assert_eq!(seen["x-forwarded-for"], "127.0.0.1");
        assert_eq!(seen["x-kept"], "1");
        assert_eq!(seen.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_concerns_one_connection_stays_on_it() {
    let origin = Origin::start().await;
    let lab = Plan::default().start(policy::open(&[origin.address]));
    let mut request = client::get("/hop");
    for (name, value) in [
        ("connection", "x-mine"),
        ("x-mine", "1"),
        ("upgrade", "websocket"),
        ("te", "trailers"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let reply = Client::connect(&lab, H1).await.send(request).await.unwrap();
    let seen = origin.last().headers;
    assert!(
        !seen.contains_key("x-mine") && !seen.contains_key("upgrade"),
        "{seen:?}"
    );
    assert_eq!(seen["te"], "trailers");
    assert!(!reply.headers.contains_key("x-internal") && !reply.headers.contains_key("keep-alive"));
    assert_eq!(reply.headers["x-kept"], "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals() {
    let origin = Origin::start().await;
    let mut rule = policy::open_rule();
    rule.path = PathMatch::Prefix("/v1".into());
    rule.methods = vec![Method::GET];
    let lab = Plan::default().start(policy::set(vec![rule], policy::service(&[origin.address])));
    let mut client = Client::connect(&lab, H2).await;
    for (method, path, status, verdict) in [
        (Method::GET, "/v1", 200, Verdict::Allowed),
        (Method::GET, "/v2/../v1/x", 200, Verdict::Allowed),
        (Method::GET, "/v1/../v2", 404, Verdict::NoRoute),
        (Method::GET, "/v10", 404, Verdict::NoRoute),
        (Method::POST, "/v1", 404, Verdict::NoRoute),
        (Method::TRACE, "/v1", 405, Verdict::Invalid),
        (Method::GET, "/v1/%2e%2e/%2e%2e/etc", 400, Verdict::Invalid),
        (Method::GET, "/v1/a%2fb", 400, Verdict::Invalid),
        (Method::GET, "/v1/admin;x", 400, Verdict::Invalid),
        (Method::GET, "/v1/admin%3bx", 400, Verdict::Invalid),
        (Method::GET, "/v1?a;b", 200, Verdict::Allowed),
        (Method::GET, "/v1/%00", 400, Verdict::Invalid),
        (Method::GET, "/v1/%zz", 400, Verdict::Invalid),
    ] {
        let request = Request::builder()
            .method(method.clone())
            .uri(path)
            .body(full(""))
            .unwrap();
        let reply = client.send(request).await.unwrap();
        assert_eq!(reply.status, status, "{method} {path}");
        if status != 200 {
            assert_eq!(reply.headers["content-type"], "application/problem+json");
            let problem: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
            assert_eq!(problem["status"], status);
        }
        lab.recorder
            .look(|seen| assert_eq!(seen.verdicts.last(), Some(&(verdict, status)), "{method} {path}"));
    }
    assert_eq!(origin.requests(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_both_ways() {
    let origin = Origin::start().await;
    let lab = Plan::default().start(policy::open(&[origin.address]));
    let content: Bytes = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    for alpn in [H1, H2] {
        let mut client = Client::connect(&lab, alpn).await;
        for body in [full(content.clone()), chunked(content.clone())] {
            let request = Request::post("/echo").body(body).unwrap();
            let reply = in_time("an echo", client.send(request)).await.unwrap();
            assert_eq!(reply.status, 200);
            assert!(reply.body == content, "{} bytes came back", reply.body.len());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_unknown_length_reach_the_service_with_every_method() {
    let origin = Origin::start().await;
    let lab = Plan::default().start(policy::open(&[origin.address]));
    for alpn in [H1, H2] {
        let mut client = Client::connect(&lab, alpn).await;
        for method in [Method::GET, Method::DELETE, Method::POST] {
            let mut request = Request::builder()
                .method(method.clone())
                .uri("/length")
                .body(chunked("hello"))
                .unwrap();
            if matches!(client, Client::Http1(_)) {
                // hyper's client assumes that these methods have no body, unless it is told.
                let chunked = "chunked".parse().unwrap();
                request.headers_mut().insert("transfer-encoding", chunked);
            }
            let reply = in_time("an answer", client.send(request)).await.unwrap();
            assert_eq!(
                (reply.status.as_u16(), &reply.body[..]),
                (200, &b"5"[..]),
                "{method}"
            );
            assert_eq!(origin.last().headers["transfer-encoding"], "chunked");
        }
        client.get("/length").await;
        assert!(!origin.last().headers.contains_key("transfer-encoding"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_begins_before_the_request_has_ended() {
    let origin = Origin::start().await;
    let lab = Plan::default().start(policy::open(&[origin.address]));
    let (mut sender, body) = http_body_util::channel::Channel::<Bytes, std::io::Error>::new(1);
    let request = Request::post("/echo").body(body.boxed()).unwrap();
    let mut client = Client::connect(&lab, H2).await;
    let response = in_time("the response's head", client.start(request))
        .await
        .unwrap();
    let mut body = response.into_body();
    for piece in ["one", "two"] {
        sender.send_data(piece.into()).await.unwrap();
        let frame = in_time("a piece", body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), piece);
    }
    drop(sender);
    assert_eq!(in_time("the end", body.collect()).await.unwrap().to_bytes(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_have_a_limit() {
    let origin = Origin::start().await;
    let mut rule = policy::open_rule();
    rule.max_body = 1000;
    let lab = Plan::default().start(policy::set(vec![rule], policy::service(&[origin.address])));
    for alpn in [H1, H2] {
        let before = origin.requests();
        let large = client::post("/length", vec![b'x'; 1001]);
        let reply = Client::connect(&lab, alpn).await.send(large).await.unwrap();
        assert_eq!(reply.status, 413);
        assert_eq!(origin.requests(), before, "refused before it is forwarded");

        let exact = Request::post("/length").body(chunked(vec![b'x'; 1000])).unwrap();
        let reply = Client::connect(&lab, alpn).await.send(exact).await.unwrap();
        assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &b"1000"[..]));

        let large = Request::post("/length").body(chunked(vec![b'x'; 1001])).unwrap();
        let reply = Client::connect(&lab, alpn).await.send(large).await.unwrap();
        assert_eq!(reply.status, 413, "cut on its way");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_have_no_body() {
    let origin = Origin::start().await;
    let lab = Plan::default().start(policy::open(&[origin.address]));
    for alpn in [H1, H2] {
        let mut client = Client::connect(&lab, alpn).await;
        for _ in 0..2 {
            let request = Request::head("/").body(full("")).unwrap();
            let reply = in_time("a head", client.send(request)).await.unwrap();
            assert_eq!(
                (
                    reply.status.as_u16(),
                    &reply.headers["content-length"],
                    reply.body.len()
                ),
                (200, &"2".parse().unwrap(), 0)
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_services_time_out() {
    let origin = Origin::start().await;
    let mut rule = policy::open_rule();
    rule.timeout = Duration::from_millis(100);
    let lab = Plan::default().start(policy::set(vec![rule], policy::service(&[origin.address])));
    let mut client = Client::connect(&lab, H1).await;
    assert_eq!(client.get("/held").await.status, 504);
    assert_eq!(
        client.get("/").await.status,
        200,
        "the client's connection lives on"
    );
    lab.recorder.look(|seen| {
        assert_eq!(seen.verdicts[0], (Verdict::Upstream, 504));
        assert!(seen.latencies[0].is_some_and(|latency| latency >= Duration::from_millis(100)));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_listeners_speak_http1() {
    let origin = Origin::start().await;
    let lab = Plan {
        tls: false,
        ..Plan::default()
    }
    .start(policy::open(&[origin.address]));
    let stream = tokio::net::TcpStream::connect(lab.address).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("/")
        .header("host", "api.example.com")
        .body(full(""))
        .unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    assert_eq!(origin.last().headers["x-forwarded-proto"], "http");
}
