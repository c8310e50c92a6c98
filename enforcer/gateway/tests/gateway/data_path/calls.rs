//! gRPC: tonic's client and server, streaming both ways through the gateway.

use std::{convert::Infallible, future::Future, net::SocketAddr, pin::Pin, sync::Arc, task, time::Duration};

use enforcer_model::{PathMatch, PolicySet, Protocol};
use enforcer_tls::config::ClientCertificates;
use futures_util::{Stream, StreamExt, stream};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_rustls::TlsAcceptor;
use tonic::{
    Code, Request, Response, Status, Streaming,
    body::Body,
    client::{Grpc, GrpcService},
    metadata::MetadataValue,
    server::{self, StreamingService},
};
use tonic_prost::ProstCodec;

use crate::data_path::support::{
    Lab, Plan,
    client::{self, Client, H1, H2},
    corp::Corp,
    eventually, in_time,
    pki::{HOST, Pki},
    policy,
};

const CLIENT: &str = "spiffe://example.com/ns/shop/sa/caller";

/// What is said in both directions.
#[derive(Clone, PartialEq, prost::Message)]
struct Number {
    #[prost(uint64, tag = "1")]
    value: u64,
    #[prost(bytes = "vec", tag = "2")]
    padding: Vec<u8>,
}

impl Number {
    fn new(value: u64) -> Self {
        Self {
            value,
            padding: vec![0; 100_000],
        }
    }
}

/// Answers each number with its double at once, and 13 with an error.
struct Doubling;

impl StreamingService<Number> for Doubling {
    type Response = Number;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<Number, Status>> + Send>>;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Self::ResponseStream>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<Number>>) -> Self::Future {
        Box::pin(async move {
            let answers = request.into_inner().map(|number| match number?.value {
                13 => Err(Status::out_of_range("unlucky")),
                value => Ok(Number::new(value * 2)),
            });
            let answers: Self::ResponseStream = Box::pin(answers);
            Ok(Response::new(answers))
        })
    }
}

/// A server of HTTP/2 alone. Calls of `/test.Math/Never` are not answered.
async fn server() -> SocketAddr {
    serve(None).await
}

/// The same, with TLS if `tls` is there.
async fn serve(tls: Option<TlsAcceptor>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(|request: http::Request<Incoming>| async move {
                if request.uri().path().ends_with("/Never") {
                    std::future::pending::<()>().await;
                }
                assert_eq!(request.uri().host(), Some(HOST));
                assert_eq!(request.headers()["te"], "trailers");
                assert_eq!(request.headers()["x-enforcer-identity"], CLIENT);
                let mut grpc = server::Grpc::new(ProstCodec::default());
                Ok::<_, Infallible>(grpc.streaming(Doubling, request).await)
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            match tls.clone() {
                None => tokio::spawn(server.serve_connection(TokioIo::new(stream), service)),
                Some(tls) => tokio::spawn(async move {
                    let stream = tls.accept(stream).await.unwrap();
                    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
                    server.serve_connection(TokioIo::new(stream), service).await
                }),
            };
        }
    });
    address
}

/// A connection to the gateway, as tonic wants it.
struct Channel(SendRequest<Body>);

impl GrpcService<Body> for Channel {
    type ResponseBody = Incoming;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<http::Response<Incoming>>> + Send>>;

    fn poll_ready(&mut self, context: &mut task::Context<'_>) -> task::Poll<hyper::Result<()>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

async fn connect(lab: &Lab) -> Grpc<Channel> {
    let config = lab.pki.client_config(Some(lab.pki.client(CLIENT)), H2);
    let stream = client::tls(lab.address, config).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    Grpc::with_origin(Channel(sender), format!("https://{HOST}").parse().unwrap())
}

/// Numbers that are sent as they are put in.
fn numbers() -> (mpsc::Sender<Number>, impl Stream<Item = Number> + Send + 'static) {
    let (sender, receiver) = mpsc::channel(1);
    let numbers = stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|number| (number, receiver))
    });
    (sender, numbers)
}

async fn call(
    grpc: &mut Grpc<Channel>,
    method: &'static str,
    token: Option<&str>,
    timeout: Option<Duration>,
    numbers: impl Stream<Item = Number> + Send + 'static,
) -> Result<Response<Streaming<Number>>, Status> {
    let mut request = Request::new(numbers);
    if let Some(token) = token {
        let value: MetadataValue<_> = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    if let Some(timeout) = timeout {
        request.set_timeout(timeout);
    }
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static(method);
    let codec = ProstCodec::<Number, Number>::default();
    in_time(method, grpc.streaming(request, path, codec)).await
}

fn set(corp: &Corp, service: SocketAddr) -> PolicySet {
    let mut rule = policy::open_rule();
    rule.path = PathMatch::Prefix("/test.Math".into());
    rule.require = policy::certificate_and_token(CLIENT, "corp", "orders:read");
    let mut service = policy::service(&[service]);
    service.protocol = Protocol::Http2;
    let mut set = policy::set(vec![rule], service);
    set.issuers = vec![Arc::new(corp.issuer())];
    set
}

fn plan() -> Plan {
    Plan {
        client_certificates: ClientCertificates::Required,
        ..Plan::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_go_both_ways_and_end_with_trailers() {
    let corp = Corp::new();
    both_ways(&corp, set(&corp, server().await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_they_do_where_the_service_has_tls() {
    let corp = Corp::new();
    let pki = Pki::of("services");
    pki.write_named("origin", "orders.internal", 1);
    let address = serve(Some(pki.acceptor("origin", H2))).await;
    let mut set = set(&corp, address);
    let service = Arc::make_mut(&mut set.services[0]);
    service.endpoints[0].https = true;
    service.tls.ca = Some(pki.path("ca.pem"));
    service.tls.server_name = Some("orders.internal".into());
    both_ways(&corp, set).await;
}

async fn both_ways(corp: &Corp, set: PolicySet) {
    let lab = plan().start(set);
    let token = corp.token("orders:read");
    let mut grpc = connect(&lab).await;
    let (sender, numbers_sent) = numbers();
    let answers = call(&mut grpc, "/test.Math/Double", Some(&token), None, numbers_sent).await;
    let mut answers = answers.unwrap().into_inner();
    for value in 1..=10 {
        // Each is answered before the next is sent: nothing is collected on the way.
        sender.send(Number::new(value)).await.unwrap();
        let answer = in_time("an answer", answers.message()).await.unwrap().unwrap();
        assert_eq!(answer.value, value * 2);
    }
    drop(sender);
    assert_eq!(in_time("the end", answers.message()).await.unwrap(), None);

    let given = stream::iter([Number::new(1), Number::new(13), Number::new(2)]);
    let answers = call(&mut grpc, "/test.Math/Double", Some(&token), None, given).await;
    let mut answers = answers.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().value, 2);
    let status = in_time("the error", answers.message()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::OutOfRange, "unlucky"));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_statuses() {
    let corp = Corp::new();
    let lab = plan().start(set(&corp, server().await));
    let mut grpc = connect(&lab).await;
    let (right, wrong) = (corp.token("orders:read"), corp.token("orders:write"));
    let short = Some(Duration::from_millis(50));
    for (method, token, timeout, code) in [
        ("/test.Math/Double", None, None, Code::Unauthenticated),
        (
            "/test.Math/Double",
            Some("no.token.this"),
            None,
            Code::Unauthenticated,
        ),
        ("/test.Math/Double", Some(&*wrong), None, Code::PermissionDenied),
        ("/other.Math/Double", Some(&*right), None, Code::Unimplemented),
        ("/test.Math/Never", Some(&*right), short, Code::DeadlineExceeded),
    ] {
        let status = call(&mut grpc, method, token, timeout, stream::empty())
            .await
            .unwrap_err();
        assert_eq!(status.code(), code, "{method}: {status:?}");
        assert!(!status.message().is_empty(), "{status:?}");
    }
    // Nobody listens there any more.
    let gone = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let lab = plan().start(set(&corp, gone));
    let mut grpc = connect(&lab).await;
    let refused = call(
        &mut grpc,
        "/test.Math/Double",
        Some(&right),
        None,
        stream::empty(),
    )
    .await;
    assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
    lab.recorder
        .look(|seen| assert_eq!(seen.verdicts.last().map(|last| last.1), Some(502)));
}

#[tokio::test(flavor = "multi_thread")]
async fn impatience_of_clients_is_no_fault_of_a_service() {
    let corp = Corp::new();
    let lab = plan().start(set(&corp, server().await));
    let token = corp.token("orders:read");
    let mut grpc = connect(&lab).await;
    let short = Some(Duration::from_millis(20));
    for _ in 0..3 {
        let never = call(
            &mut grpc,
            "/test.Math/Never",
            Some(&token),
            short,
            stream::empty(),
        )
        .await;
        assert_eq!(never.unwrap_err().code(), Code::DeadlineExceeded);
    }
    eventually("they are counted", async || {
        let metrics = lab.metrics();
        let counted = |result: &str| {
            metrics.lines().any(|line| {
                line.starts_with("enforcer_upstream_requests_total")
                    && line.contains(result)
                    && line.ends_with(" 3")
            })
        };
        assert!(!counted("timed_out"), "{metrics}");
        counted("abandoned")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_protocol_has_other_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut service = policy::service(&[listener.local_addr().unwrap()]);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(|request: http::Request<Incoming>| async move {
                Ok::<_, Infallible>(http::Response::new(format!("{:?}", request.version())))
            });
            tokio::spawn(async move {
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                // It ends with its client.
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    let set = |service| policy::set(vec![policy::open_rule()], service);
    let lab = Plan::default().start(set(service.clone()));
    let mut client = Client::connect(&lab, H1).await;
    for (protocol, version) in [
        (Protocol::Http1, "HTTP/1.1"),
        (Protocol::Http2, "HTTP/2.0"),
        (Protocol::Http1, "HTTP/1.1"),
        (Protocol::Http2, "HTTP/2.0"),
    ] {
        service.protocol = protocol;
        lab.policies.replace(set(service.clone()));
        for _ in 0..3 {
            let reply = client.get("/").await;
            assert_eq!((reply.status.as_u16(), &*reply.body), (200, version.as_bytes()));
        }
    }
}
