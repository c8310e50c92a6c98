//! Bodies that come and go piece by piece, no faster than they are read.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use enforcer_model::{PolicySet, Requirement};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, channel::Channel};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
};

use crate::data_path::support::{
    Lab, Plan,
    client::{Client, H1, H2, get, tls},
    in_time,
    origin::Origin,
    pki::HOST,
    policy,
};

const MIB: u64 = 1 << 20;
/// What is sent if nobody stops it.
const ALL: u64 = 64 * MIB;
/// What may be under way: two sockets of the gateway, which the kernel gives up to 6 MiB each to receive and 4 MiB to
/// send, those at both ends, and less than 1 MiB of the gateway's own.
const IN_FLIGHT: u64 = 24 * MIB;

/// A service for one request: it reads the head and goes on as `script` says.
async fn service<F>(script: impl FnOnce(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        script(stream).await;
    });
    address
}

/// Everybody may send as much as there is.
fn open(address: SocketAddr) -> PolicySet {
    let mut rule = policy::open_rule();
    rule.max_body = 2 * ALL;
    policy::set(vec![rule], policy::service(&[address]))
}

/// Waits until a count that has begun stops growing.
async fn stalled(count: &AtomicU64) -> u64 {
    in_time("it stalls", async {
        loop {
            let before = count.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_secs(1)).await;
            if before > 0 && count.load(Ordering::SeqCst) == before {
                return before;
            }
        }
    })
    .await
}

/// The head of an upload of HTTP/1.1 with that length, which waits for a 100.
fn expecting(length: usize) -> String {
    format!(
        "POST /length HTTP/1.1\r\nhost: {HOST}\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
    )
}

#[tokio::test]
async fn a_client_that_waits_for_100_gets_it_and_the_service_no_expectation() {
    let origin = Origin::start().await;
    let lab = Plan::default().start(policy::open(&[origin.address]));
    let mut stream = tls(lab.address, lab.pki.client_config(None, H1)).await.unwrap();
    stream.write_all(expecting(5).as_bytes()).await.unwrap();
    let mut interim = vec![0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    in_time("100", stream.read_exact(&mut interim)).await.unwrap();
    assert_eq!(interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"12345").await.unwrap();
    let mut answer = Vec::new();
    in_time("200", async {
        while !answer.ends_with(b"\r\n\r\n5") {
            answer.push(stream.read_u8().await.unwrap());
        }
    })
    .await;
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    assert!(!origin.last().headers.contains_key("expect"));
}

#[tokio::test]
async fn a_refusal_comes_without_100_and_without_the_body() {
    let origin = Origin::start().await;
    let mut rule = policy::open_rule();
    rule.require = Requirement::Nobody;
    let lab = Plan::default().start(policy::set(vec![rule], policy::service(&[origin.address])));
    let mut stream = tls(lab.address, lab.pki.client_config(None, H1)).await.unwrap();
    stream.write_all(expecting(1000).as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The gateway closes: it cannot know whether the body comes nevertheless.
    drop(in_time("403", stream.read_to_end(&mut answer)).await);
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(!answer.contains("100 Continue"), "{answer}");

    // HTTP/2 needs no closing: the stream alone ends.
    let mut client = Client::connect(&lab, H2).await;
    for _ in 0..2 {
        let (sender, body) = Channel::<Bytes, std::io::Error>::new(1);
        let request = Request::post("/length").header("expect", "100-continue");
        let request = request.body(body.boxed()).unwrap();
        let reply = in_time("403", client.send(request)).await.unwrap();
        assert_eq!(reply.status, StatusCode::FORBIDDEN);
        drop(sender);
    }
    assert_eq!(origin.requests(), 0);
}

#[tokio::test]
async fn events_come_one_by_one_as_the_service_sends_them() {
    for alpn in [H1, H2] {
        let (next, mut wanted) = mpsc::channel::<()>(1);
        let address = service(async move |mut stream| {
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            for number in 0..20 {
                wanted.recv().await.unwrap();
                let event = format!("data: {number}\n\n");
                let chunk = format!("{:x}\r\n{event}\r\n", event.len());
                stream.write_all(chunk.as_bytes()).await.unwrap();
            }
            stream.write_all(b"0\r\n\r\n").await.unwrap();
            // Until the gateway has read it all.
            drop(stream.read_u8().await);
        })
        .await;
        let lab = Plan::default().start(open(address));
        let mut client = Client::connect(&lab, alpn).await;
        let response = in_time("the head comes alone", client.start(get("/events")))
            .await
            .unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut body = response.into_body();
        for number in 0..20 {
            next.send(()).await.unwrap();
            let frame = in_time("an event", body.frame()).await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), format!("data: {number}\n\n"));
        }
        // HTTP/2 may say it by an empty piece.
        let rest = in_time("the end", body.collect()).await.unwrap().to_bytes();
        assert!(rest.is_empty());
    }
}

/// A service that sends [`ALL`] bytes, and how many it has been rid of.
async fn sending() -> (SocketAddr, Arc<AtomicU64>) {
    let written = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&written);
    let address = service(async move |mut stream| {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {ALL}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let piece = vec![b'x'; 64 << 10];
        for _ in 0..ALL / piece.len() as u64 {
            stream.write_all(&piece).await.unwrap();
            count.fetch_add(piece.len() as u64, Ordering::SeqCst);
        }
    })
    .await;
    (address, written)
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_service() {
    for alpn in [H1, H2] {
        let (address, written) = sending().await;
        let lab = Plan::default().start(open(address));
        let mut client = Client::connect(&lab, alpn).await;
        let mut body = in_time("head", client.start(get("/"))).await.unwrap().into_body();
        let stopped_at = stalled(&written).await;
        assert!(stopped_at <= IN_FLIGHT, "{stopped_at} bytes are under way");
        // Once it reads, all comes.
        let read = in_time("the rest", async {
            let mut read = 0;
            while let Some(frame) = body.frame().await {
                read += frame.unwrap().into_data().unwrap().len() as u64;
            }
            read
        });
        assert_eq!(read.await, ALL);
    }
}

/// A service that reads only once it is told to, and then says how many bytes came.
async fn reading_later() -> (SocketAddr, oneshot::Sender<()>) {
    let (begin, told) = oneshot::channel();
    let address = service(async move |mut stream| {
        told.await.unwrap();
        let (mut read, mut buffer) = (0, vec![0; 64 << 10]);
        while read < ALL {
            read += stream.read(&mut buffer).await.unwrap() as u64;
        }
        let length = read.to_string();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{length}",
            length.len()
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
        drop(stream.read_u8().await);
    })
    .await;
    (address, begin)
}

/// Starts an upload of [`ALL`] bytes; its answer, and how many bytes the client has been rid of.
async fn upload(lab: &Lab, alpn: &[&[u8]]) -> (impl Future<Output = Bytes>, Arc<AtomicU64>) {
    let stream = tls(lab.address, lab.pki.client_config(None, alpn)).await.unwrap();
    // The client's own part of what is under way stays small.
    SockRef::from(stream.get_ref().0)
        .set_send_buffer_size(64 << 10)
        .unwrap();
    let mut client = Client::over(stream).await;
    let (mut sender, body) = Channel::<Bytes, std::io::Error>::new(1);
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    tokio::spawn(async move {
        let piece = Bytes::from(vec![b'x'; 64 << 10]);
        for _ in 0..ALL / piece.len() as u64 {
            sender.send_data(piece.clone()).await.unwrap();
            count.fetch_add(piece.len() as u64, Ordering::SeqCst);
        }
    });
    let request = Request::post("/").header("content-length", ALL);
    let request = request.body(body.boxed()).unwrap();
    let answer = tokio::spawn(async move { client.send(request).await.unwrap().body });
    (async { answer.await.unwrap() }, sent)
}

#[tokio::test]
async fn a_service_that_does_not_read_stops_the_client() {
    for alpn in [H1, H2] {
        let (address, begin) = reading_later().await;
        let lab = Plan::default().start(open(address));
        let (answer, sent) = upload(&lab, alpn).await;
        let stopped_at = stalled(&sent).await;
        assert!(stopped_at <= IN_FLIGHT, "{stopped_at} bytes are under way");
        begin.send(()).unwrap();
        assert_eq!(in_time("the answer", answer).await, ALL.to_string());
    }
}

#[tokio::test]
async fn an_upload_goes_on_while_its_response_is_not_read() {
    let (all_read, told) = oneshot::channel();
    let address = service(async move |stream| {
        let (mut reads, mut writes) = stream.into_split();
        tokio::spawn(async move {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {ALL}\r\n\r\n");
            drop(writes.write_all(head.as_bytes()).await);
            // More than the sockets on the way take: it stops where nobody reads it.
            drop(writes.write_all(&vec![b'x'; ALL as usize]).await);
        });
        let read = tokio::io::copy(&mut (&mut reads).take(ALL), &mut tokio::io::sink()).await;
        all_read.send(read.unwrap()).unwrap();
    })
    .await;
    let lab = Plan::default().start(open(address));
    let mut stream = tls(lab.address, lab.pki.client_config(None, H1)).await.unwrap();
    let head = format!("POST /both HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {ALL}\r\n\r\n");
    let upload = async {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&vec![b'y'; ALL as usize]).await?;
        stream.flush().await
    };
    in_time("the upload", upload).await.unwrap();
    assert_eq!(in_time("all of it at the service", told).await.unwrap(), ALL);
}
