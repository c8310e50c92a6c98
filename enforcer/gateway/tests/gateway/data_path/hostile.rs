//! Messages that try to be read in two ways, over TLS, byte by byte.

use crate::data_path::{
    hostile_lengths,
    hostile_messages::{
        self as more, BAD,
        Expect::{self, Cut, Refused, Served, ServedThenRefused},
        Message,
    },
    support::{Lab, Plan, client::raw, origin::Origin, policy},
};

/// The messages of this file.
fn messages() -> Vec<Message> {
    let huge = format!(
        "GET / HTTP/1.1\r\nhost: api.example.com\r\nx: {}\r\n\r\n",
        "a".repeat(70_000)
    );
    let many = format!(
        "GET / HTTP/1.1\r\nhost: api.example.com\r\n{}\r\n",
        "x: y\r\n".repeat(200)
    );
    let long = format!(
        "GET /{} HTTP/1.1\r\nhost: api.example.com\r\n\r\n",
        "a".repeat(70_000)
    );
    let mut table: Vec<Message> = [
        // RFC 9112 section 6.1; more of them are in `hostile_lengths`.
        ("length and chunked", "POST /length HTTP/1.1\r\nhost: api.example.com\r\ncontent-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: api.example.com\r\n\r\n", BAD),
        ("chunked and length", "POST /length HTTP/1.1\r\nhost: api.example.com\r\ntransfer-encoding: chunked\r\ncontent-length: 6\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: api.example.com\r\n\r\n", BAD),
        ("two different lengths", "POST / HTTP/1.1\r\nhost: api.example.com\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", BAD),
        ("a list of different lengths", "POST / HTTP/1.1\r\nhost: api.example.com\r\ncontent-length: 1, 2\r\n\r\nab", BAD),
        ("a signed length", "POST / HTTP/1.1\r\nhost: api.example.com\r\ncontent-length: +1\r\n\r\na", BAD),
        ("a negative length", "POST / HTTP/1.1\r\nhost: api.example.com\r\ncontent-length: -1\r\n\r\n", BAD),
        ("a hexadecimal length", "POST / HTTP/1.1\r\nhost: api.example.com\r\ncontent-length: 0x1\r\n\r\na", BAD),
        ("a length beyond 64 bits", "POST / HTTP/1.1\r\nhost: api.example.com\r\ncontent-length: 18446744073709551617\r\n\r\na", Refused(&[400, 413])),
        ("an empty length", "POST / HTTP/1.1\r\nhost: api.example.com\r\ncontent-length: \r\n\r\na", BAD),
        ("chunked is not last", "POST / HTTP/1.1\r\nhost: api.example.com\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n", BAD),
        ("an unknown coding", "POST / HTTP/1.1\r\nhost: api.example.com\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n", BAD),
        ("chunked in HTTP/1.0", "POST / HTTP/1.0\r\nhost: api.example.com\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", BAD),
        ("a space before the colon", "GET / HTTP/1.1\r\nhost : api.example.com\r\n\r\n", BAD),
        ("a space before a coding's colon", "POST / HTTP/1.1\r\nhost: api.example.com\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n", BAD),
        ("a folded field", "GET / HTTP/1.1\r\nhost: api.example.com\r\nx: a\r\n b\r\n\r\n", BAD),
        ("a folded first field", "GET / HTTP/1.1\r\n host: api.example.com\r\n\r\n", BAD),
        ("NUL in a value", "GET / HTTP/1.1\r\nhost: api.example.com\r\nx: a\0b\r\n\r\n", BAD),
        ("NUL in a name", "GET / HTTP/1.1\r\nhost: api.example.com\r\nx\0y: a\r\n\r\n", BAD),
        ("CR in a value", "GET / HTTP/1.1\r\nhost: api.example.com\r\nx: a\rb\r\n\r\n", BAD),
        ("no colon", "GET / HTTP/1.1\r\nhost: api.example.com\r\nnonsense\r\n\r\n", BAD),
        ("an empty name", "GET / HTTP/1.1\r\nhost: api.example.com\r\n: a\r\n\r\n", BAD),
        ("no host", "GET / HTTP/1.1\r\nconnection: close\r\n\r\n", BAD),
        ("two hosts", "GET / HTTP/1.1\r\nhost: api.example.com\r\nhost: api.example.com\r\nconnection: close\r\n\r\n", BAD),
        ("a host with a path", "GET / HTTP/1.1\r\nhost: api.example.com/admin\r\nconnection: close\r\n\r\n", BAD),
        ("an absolute target for another host", "GET https://api.example.com/ HTTP/1.1\r\nhost: other.example.com\r\nconnection: close\r\n\r\n", BAD),
        ("an absolute target for this host", "GET https://api.example.com/x HTTP/1.1\r\nhost: API.example.com\r\nconnection: close\r\n\r\n", Served(1)),
        ("a target without a slash", "GET x HTTP/1.1\r\nhost: api.example.com\r\nconnection: close\r\n\r\n", BAD),
        ("the asterisk", "OPTIONS * HTTP/1.1\r\nhost: api.example.com\r\nconnection: close\r\n\r\n", BAD),
        ("CONNECT", "CONNECT api.example.com:443 HTTP/1.1\r\nhost: api.example.com:443\r\nconnection: close\r\n\r\n", Refused(&[404])),
        ("HTTP/0.9", "GET /\r\n\r\n", BAD),
        ("HTTP/2 without its preface", "GET / HTTP/2.0\r\nhost: api.example.com\r\n\r\n", BAD),
        ("HTTP/1.2", "GET / HTTP/1.2\r\nhost: api.example.com\r\n\r\n", BAD),
        ("the HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Cut),
        ("two spaces in the request line", "GET  / HTTP/1.1\r\nhost: api.example.com\r\n\r\n", BAD),
        ("a method that is no token", "G(T / HTTP/1.1\r\nhost: api.example.com\r\n\r\n", BAD),
        // RFC 9112 section 2.2 lets a server take a lone LF for a line's end; what is forwarded has CRLF.
        ("lone line feeds", "GET / HTTP/1.1\nhost: api.example.com\nconnection: close\n\n", Served(1)),
        ("a chunk's size that is no number", "POST /length HTTP/1.1\r\nhost: api.example.com\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n", Cut),
        ("a chunk's size beyond 64 bits", "POST /length HTTP/1.1\r\nhost: api.example.com\r\ntransfer-encoding: chunked\r\n\r\n10000000000000001\r\na\r\n0\r\n\r\n", Cut),
        ("a chunk longer than its size", "POST /length HTTP/1.1\r\nhost: api.example.com\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", Cut),
        ("a chunk's size ended by LF", "POST /length HTTP/1.1\r\nhost: api.example.com\r\ntransfer-encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n", Cut),
        ("pipelined requests", "GET /a HTTP/1.1\r\nhost: api.example.com\r\n\r\nGET /b HTTP/1.1\r\nhost: api.example.com\r\nconnection: close\r\n\r\n", Served(2)),
    ]
    .map(|(what, text, expect)| (what.to_owned(), text.as_bytes().to_vec(), expect))
    .into();
    table.push(("a huge field".to_owned(), huge.into_bytes(), Refused(&[431])));
    table.push(("too many fields".to_owned(), many.into_bytes(), Refused(&[431])));
    table.push((
        "a long target".to_owned(),
        long.into_bytes(),
        Refused(&[414, 431]),
    ));
    table
}

/// Status codes of all responses in `answer`.
fn statuses(answer: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(answer);
    // HTTP/1.0 is answered in HTTP/1.0.
    text.match_indices("HTTP/1.")
        .filter_map(|(at, start)| text[at + start.len()..].get(2..5)?.parse().ok())
        .collect()
}

/// All messages.
pub(crate) fn all() -> Vec<Message> {
    [
        messages(),
        more::lines(),
        more::fields(),
        more::lengths(),
        more::chunks(),
        more::pipelines(),
        hostile_lengths::messages(),
    ]
    .concat()
}

/// What is wrong with how the message was answered, and with what the service has seen of it.
fn complaint(expect: Expect, statuses: &[u16], targets: &[String]) -> Option<String> {
    let right = match expect {
        Refused(codes) => matches!(statuses, [code] if codes.contains(code)) && targets.is_empty(),
        // The head is in order, so the service may have seen it; it never gets a whole body.
        Cut => statuses.iter().all(|code| *code >= 400),
        Served(count) => *statuses == vec![200; count] && targets.len() == count,
        ServedThenRefused(count) => {
            *statuses == [vec![200; count], vec![400]].concat() && targets.len() == count
        }
    };
    let smuggled = targets.iter().any(|target| target.starts_with("/smuggled"));
    (smuggled || !right).then(|| format!("{expect:?}, but {statuses:?} and {targets:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_message_is_read_in_one_way() {
    let origin = Origin::start().await;
    let lab: Lab = Plan::default().start(policy::open(&[origin.address]));
    let all = all();
    assert!(all.len() >= 210, "{} messages", all.len());
    let mut complaints = Vec::new();
    for (what, message, expect) in all {
        origin.state.seen.lock().unwrap().clear();
        let statuses = statuses(&raw(&lab, &message).await);
        let seen = origin.state.seen.lock().unwrap().clone();
        let targets: Vec<String> = seen.into_iter().map(|seen| seen.target).collect();
        if let Some(complaint) = complaint(expect, &statuses, &targets) {
            complaints.push(format!("{what}: {complaint}"));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
