//! Requests with both `Content-Length` and `Transfer-Encoding`: they are refused, and their connection is closed (RFC 9112
//! sections 6.1 and 11.2).

use enforcer_gateway::signal::Verdict;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::data_path::{
    hostile_messages::{
        BAD,
        Expect::{Served, ServedThenRefused},
        Message,
    },
    support::{Lab, Plan, client, in_time, origin::Origin, policy},
};

const HOST: &str = "host: api.example.com\r\n";
const CHUNKED: &str = "transfer-encoding: chunked\r\n";

/// What a server takes for a request that ends such a one elsewhere.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: api.example.com\r\n\r\n";

fn post(fields: &str, body: &str) -> String {
    format!("POST /length HTTP/1.1\r\n{HOST}{fields}\r\n{body}")
}

/// With both, each followed by what could be taken for another request.
fn both() -> Vec<Message> {
    [
        "content-length: 6\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 6\r\n",
        "Content-Length: 6\r\nTransfer-Encoding: Chunked\r\n",
        "tRANSFER-eNCODING:chunked\r\ncONTENT-lENGTH:6\r\n",
        "content-length: 0\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 0\r\n",
        "content-length: 5\r\n transfer-encoding: chunked\r\n",
        "content-length: 5\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n",
        "content-length: 5\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n",
        "content-length: 5\r\ncontent-length: 6\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\ncontent-length: 6\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 5, 5\r\n",
        "transfer-encoding: chunked\r\ncontent-length: none\r\n",
        "transfer-encoding: chunked\r\ncontent-length:\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 18446744073709551616\r\n",
        "transfer-encoding: gzip, chunked\r\ncontent-length: 5\r\n",
        "transfer-encoding: identity\r\ncontent-length: 5\r\n",
        "content-length: 5\r\ntransfer-encoding: xchunked\r\n",
        "content-length: 5\r\nx: y\r\nx: y\r\ntransfer-encoding: chunked\r\n",
        "content-length: 5\ntransfer-encoding: chunked\n",
        "connection: close, content-length\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n",
        "connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n",
        "expect: 100-continue\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n",
    ]
    .map(|fields| {
        let message = post(fields, &format!("0\r\n\r\n{SMUGGLED}"));
        (format!("two lengths {fields:?}"), message.into_bytes(), BAD)
    })
    .into()
}

/// Behind others on their connection, and what only looks like it.
fn behind_others() -> Vec<Message> {
    let get = format!("GET / HTTP/1.1\r\n{HOST}\r\n");
    let last = format!("GET / HTTP/1.1\r\n{HOST}connection: close\r\n\r\n");
    let both = post("content-length: 5\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n");
    let length = both.len();
    // A body that is such a request.
    let by_length = post(&format!("content-length: {length}\r\n"), &both);
    let by_chunks = post(CHUNKED, &format!("{length:x}\r\n{both}\r\n0\r\n\r\n"));
    let trailers = post(
        CHUNKED,
        "0\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n",
    );
    [
        (
            "behind one",
            format!("{get}{both}{SMUGGLED}"),
            ServedThenRefused(1),
        ),
        (
            "behind two",
            format!("{get}\r\n{get}{both}{SMUGGLED}"),
            ServedThenRefused(2),
        ),
        (
            "behind a length",
            format!("{by_length}{both}{SMUGGLED}"),
            ServedThenRefused(1),
        ),
        (
            "behind chunks",
            format!("{by_chunks}{both}{SMUGGLED}"),
            ServedThenRefused(1),
        ),
        (
            "behind trailers",
            format!("{trailers}{both}{SMUGGLED}"),
            ServedThenRefused(1),
        ),
        (
            "before another",
            format!("{by_length}{both}{both}"),
            ServedThenRefused(1),
        ),
        (
            "in bodies",
            format!("{by_length}{by_chunks}{trailers}{last}"),
            Served(4),
        ),
        (
            "in a field",
            format!(
                "GET / HTTP/1.1\r\n{HOST}x: content-length: 1\r\n{CHUNKED}connection: close\r\n\r\n0\r\n\r\n"
            ),
            Served(1),
        ),
    ]
    .map(|(what, message, expect)| (format!("two lengths {what}"), message.into_bytes(), expect))
    .into()
}

/// All of them.
pub(crate) fn messages() -> Vec<Message> {
    [both(), behind_others()].concat()
}

/// The refusal as a whole, and as the gateway counts it.
fn assert_refused(lab: &Lab, origin: &Origin, answer: &[u8]) {
    let answer = String::from_utf8_lossy(answer).to_ascii_lowercase();
    for part in [
        "http/1.1 400 ",
        "\r\nconnection: close\r\n",
        "\r\ncontent-type: application/problem+json\r\n",
        "the request has both content-length and transfer-encoding",
    ] {
        assert!(answer.contains(part), "{part:?} in {answer}");
    }
    assert_eq!(answer.matches("http/1.1 ").count(), 1, "{answer}");
    assert_eq!(origin.requests(), 0);
    lab.recorder
        .look(|seen| assert_eq!(seen.verdicts.last(), Some(&(Verdict::Invalid, 400))));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_lengths_are_refused_in_whatever_pieces_they_come() {
    let origin = Origin::start().await;
    let lab = Plan::default().start(policy::open(&[origin.address]));
    let message = post(
        "content-length: 6\r\ntransfer-encoding: chunked\r\n",
        "0\r\n\r\nG",
    );
    for size in [1, 7, 40] {
        let mut stream = client::tls(lab.address, lab.pki.client_config(None, client::H1))
            .await
            .unwrap();
        for piece in message.as_bytes().chunks(size) {
            // The gateway may have answered before all has been sent.
            if stream.write_all(piece).await.is_err() || stream.flush().await.is_err() {
                break;
            }
        }
        let mut answer = Vec::new();
        let _reset = in_time("the gateway closes", stream.read_to_end(&mut answer)).await;
        assert_refused(&lab, &origin, &answer);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_lengths_end_the_connection_though_the_body_goes_on() {
    let origin = Origin::start().await;
    let lab = Plan::default().start(policy::open(&[origin.address]));
    let stream = client::tls(lab.address, lab.pki.client_config(None, client::H1))
        .await
        .unwrap();
    let (mut reading, mut writing) = tokio::io::split(stream);
    let head = post("transfer-encoding: chunked\r\ncontent-length: 9\r\n", "");
    writing.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("10000\r\n{}\r\n", "a".repeat(0x10000));
    let goes_on =
        async { while writing.write_all(chunk.as_bytes()).await.is_ok() && writing.flush().await.is_ok() {} };
    let mut answer = Vec::new();
    let both = async { tokio::join!(goes_on, reading.read_to_end(&mut answer)) };
    let ((), _reset) = in_time("the gateway closes", both).await;
    assert_refused(&lab, &origin, &answer);
}
