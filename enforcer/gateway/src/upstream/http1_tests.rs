//! What becomes of a connection that requests poll themselves, and of one that nobody uses.

use std::{cell::Cell, future::poll_fn, rc::Rc, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use hyper::{body::Incoming, client::conn::TrySendError};
use prometheus::Registry;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::LocalSet,
    time::{Instant, timeout},
};

use super::super::{
    endpoint::SharedEndpoint,
    pool::{Channel, Lease, LocalEndpoint, Seat},
    service::LocalService,
};
use crate::{
    body::{Progress, RequestBody},
    counters::{EndpointCells, ServiceCells},
    metrics::GatewayMetrics,
};
use enforcer_model::Protocol;

const PATIENCE: Duration = Duration::from_secs(20);

/// An endpoint, and its server, which answers as it is told.
struct Stage {
    endpoint: Rc<LocalEndpoint>,
    listener: TcpListener,
}

impl Stage {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let metrics = GatewayMetrics::new(&Registry::new()).unwrap();
        let shared = Arc::new(SharedEndpoint::for_test("orders.invalid:80"));
        shared.set_addresses(vec![listener.local_addr().unwrap()]);
        let service = LocalService::new(ServiceCells::new(&metrics, "s"));
        let cells = EndpointCells::new(&metrics, "s", "e");
        Self {
            endpoint: Rc::new(LocalEndpoint::new(shared, cells, service)),
            listener,
        }
    }

    /// A lease on a connection, and whether that is a new one.
    async fn lease(&self) -> (Lease, bool) {
        let mut lease = Lease::new(Rc::clone(&self.endpoint), Rc::new(Progress::new(true)));
        let (connection, new) = match self.endpoint.seat(usize::MAX, false) {
            Seat::Kept(connection) => (connection, false),
            Seat::New(slot) => {
                let connecting = slot.connect(&self.endpoint, Protocol::Http1, PATIENCE);
                (connecting.await.unwrap(), true)
            }
        };
        lease.hold(connection).ready().await.unwrap();
        (lease, new)
    }

    async fn accept(&self) -> TcpStream {
        self.listener.accept().await.unwrap().0
    }

    /// Waits until the endpoint has no connection, as far as those are looked at that nobody uses.
    async fn is_left(&self) {
        let left = async {
            while self.endpoint.open_connections() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
                self.endpoint.sweep(Instant::now());
            }
        };
        timeout(PATIENCE, left)
            .await
            .expect("the connection's place is free");
    }
}

/// Reads a request's head, and answers in `pieces`, one after the other.
async fn answer(stream: &mut TcpStream, pieces: &[&str]) {
    let mut head = BytesMut::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert!(stream.read_buf(&mut head).await.unwrap() > 0, "a request comes");
    }
    for piece in pieces {
        stream.write_all(piece.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Sends a request on the lease's connection and waits for the head of its response.
async fn send(lease: &mut Lease) -> Result<Response<Incoming>, Box<TrySendError<Request<RequestBody>>>> {
    let request = Request::get("/").header("host", "orders.invalid");
    let request = request.body(RequestBody::kept(Bytes::new())).unwrap();
    let Channel::Http1(carrier) = lease.channel() else {
        panic!("a connection of HTTP/1.1");
    };
    carrier.send(Box::new(request)).await
}

/// Sends a request on the lease's connection and reads its response until `enough` of it has come, or all.
async fn ask(mut lease: Lease, enough: usize) -> String {
    let response = send(&mut lease).await.unwrap();
    let (mut body, mut read) = (response.into_body(), String::new());
    while read.len() < enough {
        let Some(frame) = poll_fn(|context| lease.frame(&mut body, context)).await else {
            lease.give_back(Some(body));
            break;
        };
        read += str::from_utf8(frame.unwrap().data_ref().unwrap()).unwrap();
    }
    read
}

async fn run(test: impl Future<Output = ()>) {
    let test = timeout(4 * PATIENCE, test);
    LocalSet::new().run_until(test).await.expect("nothing hangs");
}

const LENGTH: &str = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
const ALL: usize = usize::MAX;

#[tokio::test]
async fn a_connection_is_used_again_however_the_response_came() {
    let ways: [&[&str]; 6] = [
        &["HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123456789"],
        &[LENGTH, "0123456789"],
        &[LENGTH, "01234", "56", "789"],
        &["HTTP/1.1 200 OK\r\nconte", "nt-length: 10\r\n\r\n0123", "456789"],
        &[CHUNKED, "5\r\n01234\r\n", "5\r\n567", "89\r\n0\r\n", "\r\n"],
        &["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n"],
    ];
    run(async {
        let stage = Stage::new().await;
        let (first, new) = stage.lease().await;
        assert!(new);
        let mut stream = stage.accept().await;
        let mut lease = Some(first);
        for way in ways.iter().cycle().take(30) {
            let leased = match lease.take() {
                Some(lease) => lease,
                None => {
                    let (lease, new) = stage.lease().await;
                    assert!(!new, "{way:?}");
                    lease
                }
            };
            let (read, ()) = tokio::join!(ask(leased, ALL), answer(&mut stream, way));
            assert_eq!(read, "0123456789", "{way:?}");
        }
        assert_eq!(stage.endpoint.open_connections(), 1);
    })
    .await;
}

#[tokio::test]
async fn what_follows_a_response_is_nobodys() {
    let more = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nother";
    let ways = [
        format!("{LENGTH}0123456789{more}"),
        format!("{CHUNKED}a\r\n0123456789\r\n0\r\n\r\n{more}"),
        format!("{LENGTH}0123456789x"),
    ];
    run(async {
        for way in &ways {
            let stage = Stage::new().await;
            let (lease, _) = stage.lease().await;
            let mut stream = stage.accept().await;
            let pieces = [way.as_str()];
            let (read, ()) = tokio::join!(ask(lease, ALL), answer(&mut stream, &pieces));
            assert_eq!(read, "0123456789", "{way:?}");
            stage.is_left().await;
            assert!(stage.lease().await.1, "{way:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_the_endpoint_closes_is_not_kept() {
    run(async {
        // At once, and while nobody uses it.
        for idle in [Duration::ZERO, Duration::from_millis(20)] {
            let stage = Stage::new().await;
            let (lease, _) = stage.lease().await;
            let mut stream = stage.accept().await;
            let serving = async move {
                answer(&mut stream, &[LENGTH, "0123456789"]).await;
                tokio::time::sleep(idle).await;
            };
            let (read, ()) = tokio::join!(ask(lease, ALL), serving);
            assert_eq!(read, "0123456789");
            stage.is_left().await;
            assert!(stage.lease().await.1, "{idle:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_response_that_nobody_wants_any_more_ends_its_connection() {
    run(async {
        let stage = Stage::new().await;
        let (lease, _) = stage.lease().await;
        let mut stream = stage.accept().await;
        let (read, ()) = tokio::join!(ask(lease, 3), answer(&mut stream, &[LENGTH, "01234"]));
        assert_eq!(read, "01234");
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "it is closed");
        stage.is_left().await;
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_breaks_fails_the_response() {
    run(async {
        let stage = Stage::new().await;
        let (mut lease, _) = stage.lease().await;
        let mut stream = stage.accept().await;
        let serving = async move { answer(&mut stream, &["HTTP/1.1 200"]).await };
        let (answered, ()) = tokio::join!(send(&mut lease), serving);
        assert!(answered.is_err());
        drop(lease);
        stage.is_left().await;
    })
    .await;
}

#[tokio::test]
async fn the_rest_goes_on_once_the_request_lets_go() {
    run(async {
        let stage = Stage::new().await;
        let (mut lease, _) = stage.lease().await;
        let mut stream = stage.accept().await;
        let (answered, ()) = tokio::join!(send(&mut lease), answer(&mut stream, &[LENGTH, "01234"]));
        let mut body = answered.unwrap().into_body();
        lease.leave();
        let read = Cell::new(0);
        let reading = async {
            while let Some(frame) = poll_fn(|context| lease.frame(&mut body, context)).await {
                read.set(read.get() + frame.unwrap().data_ref().unwrap().len());
            }
        };
        let writing = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            stream.write_all(b"56789").await.unwrap();
        };
        tokio::join!(reading, writing);
        assert_eq!(read.get(), 10);
        lease.give_back(Some(body));
        assert!(!stage.lease().await.1, "it is used again");
    })
    .await;
}
