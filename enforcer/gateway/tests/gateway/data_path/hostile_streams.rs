//! Clients of HTTP/2 that open more than they may, make the gateway reset streams, or ask and never read.

use std::{io, num::ParseIntError};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::data_path::{
    hostile_frames::PING,
    hostile_http2::{
        DATA, END_HEADERS, END_STREAM, GET, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE,
        fields, frame,
    },
    slow::SHORT,
    support::{
        Lab, Plan,
        client::{self, Client, H2},
        eventually, in_time,
        origin::Origin,
        pki::HOST,
        policy,
    },
};

/// Streams of a connection, and resets that it may cause, as `gateway/connection.rs` has them.
const STREAMS: u32 = 100;
const RESETS: usize = 64;
/// Codes of RFC 9113 section 7.
const PROTOCOL_ERROR: u8 = 1;
const REFUSED_STREAM: u8 = 7;
const ENHANCE_YOUR_CALM: u8 = 11;

fn one_worker() -> Plan {
    Plan {
        workers: 1,
        ..Plan::default()
    }
}

/// A request of the `index`th stream for something that the service answers when it is let.
fn held(index: u32, flags: u8, more: &[(&str, &str)]) -> Vec<u8> {
    let head = [&GET[..3], &[(":path", "/held")], more].concat();
    frame(HEADERS, END_HEADERS | flags, 2 * index + 1, &fields(&head))
}

fn hello() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

async fn connect(lab: &Lab) -> TlsStream<TcpStream> {
    let config = lab.pki.client_config(None, H2);
    let mut stream = client::tls(lab.address, config).await.unwrap();
    stream.get_ref().0.set_nodelay(true).unwrap();
    stream.write_all(&hello()).await.unwrap();
    stream
}

/// A frame that has come.
struct Got {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Got {
    async fn next(stream: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Self> {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).await?;
        let stream = u32::from_be_bytes(id);
        Ok(Self {
            kind,
            flags,
            stream,
            payload,
        })
    }

    /// Why a stream is reset or the connection ends.
    fn code(&self) -> u8 {
        let end = if self.kind == GOAWAY { 8 } else { 4 };
        self.payload[end - 1]
    }
}

/// Reads until a stream is reset or the gateway says good-bye: which of these, and why.
async fn ending(stream: &mut TlsStream<TcpStream>) -> (u8, u8) {
    loop {
        let got = Got::next(stream).await.unwrap();
        if [RST_STREAM, GOAWAY].contains(&got.kind) {
            return (got.kind, got.code());
        }
    }
}

/// Reads until so many streams have ended as they should.
async fn answers(stream: &mut TlsStream<TcpStream>, count: usize) {
    let mut answered = 0;
    while answered < count {
        let got = Got::next(stream).await.unwrap();
        assert!(![RST_STREAM, GOAWAY].contains(&got.kind), "{}", got.kind);
        if got.kind <= HEADERS && got.flags & END_STREAM != 0 {
            answered += 1;
        }
    }
}

/// A request, and what makes a server reset its stream although the client has not reset it (CVE-2025-8671): the
/// request is under way, and its stream counts no longer.
struct Way {
    what: &'static str,
    head: fn(u32) -> Vec<u8>,
    then: fn(u32) -> Vec<u8>,
    /// What h2 takes for an error of the whole connection ends that at once.
    at_once: bool,
}

fn ways_to_be_reset() -> Vec<Way> {
    const PRIORITY: u8 = 2;
    fn complete(index: u32) -> Vec<u8> {
        held(index, END_STREAM, &[])
    }
    let way = |what, then, at_once| Way {
        what,
        head: complete,
        then,
        at_once,
    };
    vec![
        way(
            "a window that overflows",
            |index| frame(WINDOW_UPDATE, 0, 2 * index + 1, &[0x7f, 0xff, 0xff, 0xff]),
            false,
        ),
        way(
            "a stream that depends on itself",
            |index| {
                let stream = 2 * index + 1;
                let itself = [&stream.to_be_bytes()[..], &[0]].concat();
                frame(PRIORITY, 0, stream, &itself)
            },
            false,
        ),
        Way {
            head: |index| held(index, 0, &[("content-length", "1")]),
            ..way(
                "more than its length",
                |index| frame(DATA, END_STREAM, 2 * index + 1, b"abc"),
                false,
            )
        },
        way(
            "a window update of zero",
            |index| frame(WINDOW_UPDATE, 0, 2 * index + 1, &[0; 4]),
            true,
        ),
        way(
            "data after the end",
            |index| frame(DATA, 0, 2 * index + 1, b"a"),
            true,
        ),
        way("a second head after the end", complete, true),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_makes_the_gateway_reset_streams_is_sent_away() {
    for Way {
        what,
        head,
        then,
        at_once,
    } in ways_to_be_reset()
    {
        let origin = Origin::start().await;
        let lab = one_worker().start(policy::open(&[origin.address]));
        let mut stream = connect(&lab).await;
        let mut resets = 0;
        let goodbye = loop {
            let index = u32::try_from(resets).unwrap();
            stream.write_all(&head(index)).await.unwrap();
            eventually("it is under way", async || origin.requests() > resets).await;
            stream.write_all(&then(index)).await.unwrap();
            match in_time(what, ending(&mut stream)).await {
                (RST_STREAM, _) => resets += 1,
                (_, code) => break code,
            }
        };
        let expected = if at_once {
            (0, PROTOCOL_ERROR)
        } else {
            (RESETS, ENHANCE_YOUR_CALM)
        };
        assert_eq!((resets, goodbye), expected, "{what}");
        assert_eq!(origin.requests(), resets + 1, "{what}");
        let mut other = Client::connect(&lab, H2).await;
        assert_eq!(other.get("/").await.status, 200, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stream_too_many_is_refused_and_reaches_no_service() {
    let origin = Origin::start().await;
    let lab = one_worker().start(policy::open(&[origin.address]));
    let mut stream = connect(&lab).await;
    let many: Vec<u8> = (0..=STREAMS)
        .flat_map(|index| held(index, END_STREAM, &[]))
        .collect();
    stream.write_all(&many).await.unwrap();
    let refused = in_time("a refusal", async {
        loop {
            let got = Got::next(&mut stream).await.unwrap();
            assert!(![HEADERS, DATA, GOAWAY].contains(&got.kind), "{}", got.kind);
            if got.kind == RST_STREAM {
                return (got.stream, got.code());
            }
        }
    })
    .await;
    assert_eq!(refused, (2 * STREAMS + 1, REFUSED_STREAM));
    let all = STREAMS as usize;
    eventually("the others are under way", async || origin.requests() == all).await;

    // Those that are answered make room.
    origin.state.gate.add_permits(all + 1);
    in_time("answers", answers(&mut stream, all)).await;
    let next = held(STREAMS + 1, END_STREAM, &[]);
    stream.write_all(&next).await.unwrap();
    in_time("one more answer", answers(&mut stream, 1)).await;
    assert_eq!(origin.requests(), all + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_refused_again_and_again_is_sent_away() {
    let origin = Origin::start().await;
    let lab = one_worker().start(policy::open(&[origin.address]));
    let mut stream = connect(&lab).await;
    let many: Vec<u8> = (0..STREAMS)
        .flat_map(|index| held(index, END_STREAM, &[]))
        .collect();
    stream.write_all(&many).await.unwrap();
    let all = STREAMS as usize;
    eventually("as many as may be are under way", async || {
        origin.requests() == all
    })
    .await;
    for index in 0..RESETS as u32 {
        stream
            .write_all(&held(STREAMS + index, END_STREAM, &[]))
            .await
            .unwrap();
        let refused = in_time("a refusal", ending(&mut stream)).await;
        assert_eq!(refused, (RST_STREAM, REFUSED_STREAM), "{index}");
    }
    let last = held(2 * STREAMS, END_STREAM, &[]);
    stream.write_all(&last).await.unwrap();
    let goodbye = in_time("an end", ending(&mut stream)).await;
    assert_eq!(goodbye, (GOAWAY, ENHANCE_YOUR_CALM));
    assert_eq!(origin.requests(), all);
}

/// How much the kernel keeps of what a socket has received and of what it is to send, in bytes.
fn kernel_buffers() -> usize {
    let largest = |name: &str| -> Result<usize, ParseIntError> {
        let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap();
        text.split_whitespace().last().unwrap().parse()
    };
    largest("tcp_rmem").unwrap() + largest("tcp_wmem").unwrap()
}

/// h2 (0.4.20) keeps one acknowledgement that is owed, of a PING in `proto/ping_pong.rs` and of SETTINGS in
/// `proto/settings.rs`, and reads no further frame until that is in its buffer of 16 KiB, which takes no frame while
/// it is full. So who does not read what it asked for is not read either: what it has sent waits in the sockets'
/// buffers, and TCP holds the rest back. After `timeouts.idle` of this the gateway cuts the connection, also if a
/// request is under way.
#[tokio::test(flavor = "multi_thread")]
async fn floods_whose_answers_nobody_reads_are_held_back_and_cut() {
    /// What the client would send, in bytes.
    const FLOOD: usize = 1 << 30;
    /// What the gateway may have of it: TLS records, h2's buffers.
    const OWN: usize = 1 << 20;

    let origin = Origin::start().await;
    let mut plan = one_worker();
    plan.timeouts.idle = SHORT;
    let lab = plan.start(policy::open(&[origin.address]));
    let floods = [
        ("pings", frame(PING, 0, 0, &[0; 8])),
        ("settings", frame(SETTINGS, 0, 0, &[])),
    ];
    for (index, (what, asked)) in floods.into_iter().enumerate() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.set_send_buffer_size(4096).unwrap();
        let stream = socket.connect(lab.address).await.unwrap();
        let connector = TlsConnector::from(lab.pki.client_config(None, H2));
        let mut stream = connector.connect(HOST.try_into().unwrap(), stream).await.unwrap();
        let begin = [hello(), held(0, END_STREAM, &[])].concat();
        stream.write_all(&begin).await.unwrap();
        eventually("a request is under way", async || origin.requests() == index + 1).await;

        let asked = asked.repeat(1000);
        let mut sent = 0;
        let cut = in_time(what, async {
            while sent < FLOOD {
                sent += stream.write(&asked[sent % asked.len()..]).await?;
            }
            io::Result::Ok(())
        });
        assert!(cut.await.is_err(), "{what}: all of it was taken");
        assert!(sent <= kernel_buffers() + OWN, "{what}: {sent} bytes were taken");
        let mut other = Client::connect(&lab, H2).await;
        assert_eq!(other.get("/length").await.status, 200, "{what}");
    }
}
