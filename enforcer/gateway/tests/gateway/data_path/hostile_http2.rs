//! HTTP/2 frames that no well-meaning client sends, byte by byte.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::data_path::{
    hostile_frames,
    support::{
        Lab, Plan,
        client::{self, Client, H2},
        in_time,
        origin::Origin,
        policy,
    },
};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Fields as literals without indexing (RFC 7541 section 6.2.2).
pub(crate) fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    block
}

pub(crate) const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", "api.example.com"),
    (":path", "/"),
];

pub(crate) fn get_with(more: &[(&str, &str)]) -> Vec<u8> {
    fields(&[&GET, more].concat())
}

pub(crate) fn request(block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, 1, block)
}

/// Sends the preface and `frames`, and returns the kinds of frames that come back until the
/// connection closes or stream 1 ends.
pub(crate) async fn exchange(lab: &Lab, frames: &[u8]) -> Vec<u8> {
    let mut stream = client::tls(lab.address, lab.pki.client_config(None, H2))
        .await
        .unwrap();
    let hello = [PREFACE, &frame(SETTINGS, 0, 0, &[]), frames].concat();
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let sending = async {
        // The gateway may close before it has read everything.
        let _sent = write.write_all(&hello).await;
    };
    let receiving = async {
        let mut kinds = Vec::new();
        let mut head = [0; 9];
        while read.read_exact(&mut head).await.is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            if read.read_exact(&mut payload).await.is_err() {
                break;
            }
            kinds.push(head[3]);
            let ends = head[3] == RST_STREAM || (head[3] <= HEADERS && head[4] & END_STREAM != 0);
            if ends && head[8] == 1 {
                break;
            }
        }
        kinds
    };
    in_time("an end", async { tokio::join!(sending, receiving).1 }).await
}

/// What HTTP/2 itself forbids.
fn malformed() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (
            "a field of the connection",
            request(&get_with(&[("connection", "close")])),
        ),
        ("chunked", request(&get_with(&[("transfer-encoding", "chunked")]))),
        ("an upper-case name", request(&get_with(&[("X-Upper", "1")]))),
        ("a line end in a value", request(&get_with(&[("x", "a\r\nb")]))),
        ("NUL in a value", request(&get_with(&[("x", "a\0b")]))),
        (
            "a pseudo-field after a field",
            request(&fields(&[&[("x", "1")], &GET[..]].concat())),
        ),
        ("two paths", request(&get_with(&[(":path", "/b")]))),
        (
            "an unknown pseudo-field",
            request(&get_with(&[(":protocol", "websocket")])),
        ),
        ("no path", request(&fields(&GET[..3]))),
        ("no method", request(&fields(&GET[1..]))),
        ("data before a head", frame(DATA, END_STREAM, 1, b"abc")),
        (
            "an even stream",
            frame(HEADERS, END_STREAM | END_HEADERS, 2, &fields(&GET)),
        ),
        (
            "a continuation of nothing",
            frame(CONTINUATION, END_HEADERS, 1, &fields(&GET)),
        ),
        ("a window update of zero", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        (
            "a broken compression",
            request(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ),
        ("a frame too large", frame(DATA, 0, 1, &vec![0; 1 << 15])),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_reach_no_service() {
    let origin = Origin::start().await;
    let lab = Plan::default().start(policy::open(&[origin.address]));
    let kinds = exchange(&lab, &request(&fields(&GET))).await;
    assert!(kinds.contains(&HEADERS) && kinds.contains(&DATA), "{kinds:?}");
    assert_eq!(
        origin.requests(),
        1,
        "the frames are right where nothing is wrong"
    );

    let short = [
        frame(HEADERS, END_HEADERS, 1, &get_with(&[("content-length", "5")])),
        frame(DATA, END_STREAM, 1, b"abc"),
    ]
    .concat();
    for (what, frames) in malformed() {
        let kinds = exchange(&lab, &frames).await;
        assert!(
            kinds.contains(&RST_STREAM) || kinds.contains(&GOAWAY),
            "{what}: {kinds:?}"
        );
        assert!(!kinds.contains(&HEADERS), "{what}: {kinds:?}");
        assert_eq!(origin.requests(), 1, "{what}");
    }
    for (what, frames) in [
        (
            "another host",
            request(&get_with(&[("host", "other.example.com")])),
        ),
        (
            "two hosts",
            request(&get_with(&[
                ("host", "api.example.com"),
                ("host", "api.example.com"),
            ])),
        ),
        ("less than its length", short),
    ] {
        let kinds = exchange(&lab, &frames).await;
        assert!(
            kinds.contains(&HEADERS) || kinds.contains(&RST_STREAM),
            "{what}: {kinds:?}"
        );
        let served = lab
            .recorder
            .look(|seen| seen.verdicts.iter().filter(|(_, status)| *status == 200).count());
        assert_eq!(served, 1, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_http2_forbids_is_not_served() {
    let origin = Origin::start().await;
    let lab = Plan::default().start(policy::open(&[origin.address]));
    let served = |lab: &Lab| {
        lab.recorder
            .look(|seen| seen.verdicts.iter().filter(|(_, status)| *status == 200).count())
    };
    let all = [hostile_frames::heads(), hostile_frames::broken()].concat();
    assert!(all.len() >= 50, "{} kinds of frames", all.len());
    let mut complaints = Vec::new();
    for (what, frames) in all {
        let kinds = exchange(&lab, &frames).await;
        let told = kinds
            .iter()
            .any(|kind| [HEADERS, RST_STREAM, GOAWAY].contains(kind));
        if !told || served(&lab) > 0 {
            complaints.push(format!("{what}: {kinds:?}, {} served", served(&lab)));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    let kinds = exchange(&lab, &request(&fields(&GET))).await;
    assert!(kinds.contains(&HEADERS) && served(&lab) == 1, "{kinds:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_small_frames_leave_others_alone() {
    let origin = Origin::start().await;
    let lab = Plan {
        workers: 1,
        ..Plan::default()
    }
    .start(policy::open(&[origin.address]));
    let mut other = Client::connect(&lab, H2).await;
    for flood in hostile_frames::floods() {
        let what = flood.what;
        let kinds = exchange(&lab, &flood.frames).await;
        let end = if flood.served { HEADERS } else { GOAWAY };
        assert!(kinds.contains(&end), "{what}");
        if let Some(answer) = flood.answered_by {
            // None is left out: what a client reads is answered, and what it does not read is held back.
            let answers = kinds.iter().filter(|kind| **kind == answer).count();
            assert!(answers >= hostile_frames::MANY, "{what}: {answers} answers");
        }
        assert_eq!(other.get("/").await.status, 200, "{what}");
    }
    assert!(origin.requests() < 50, "{} requests", origin.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_end_their_connection_only() {
    let origin = Origin::start().await;
    let lab = Plan {
        workers: 1,
        ..Plan::default()
    }
    .start(policy::open(&[origin.address]));
    let mut other = Client::connect(&lab, H2).await;
    // CVE-2023-44487: requests that are taken back at once.
    let resets: Vec<u8> = (0..20_000_u32)
        .flat_map(|index| {
            let stream = 2 * index + 3;
            let head = frame(HEADERS, END_STREAM | END_HEADERS, stream, &fields(&GET));
            [head, frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
        })
        .collect();
    // CVE-2024-27316: a head that never ends.
    let long = "a".repeat(120);
    let padding = [("x", &*long); 80];
    let piece = get_with(&padding);
    let mut endless = frame(HEADERS, END_STREAM, 1, &piece);
    endless.extend((0..2000).flat_map(|_| frame(CONTINUATION, 0, 1, &fields(&padding))));
    for (what, frames) in [("resets", resets), ("an endless head", endless)] {
        let kinds = exchange(&lab, &frames).await;
        assert!(kinds.contains(&GOAWAY), "{what}: {kinds:?}");
        assert_eq!(other.get("/").await.status, 200, "{what}");
    }
    assert!(
        origin.requests() < 1000,
        "{} requests reached the service",
        origin.requests()
    );
}
