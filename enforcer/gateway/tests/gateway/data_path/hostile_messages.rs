//! Messages of HTTP/1.1 that try to be read in two ways, and some that look like it and are in order.

/// What must come of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expect {
    /// Refused with one of these, the connection closed, and the service sees nothing.
    Refused(&'static [u16]),
    /// Closed without an answer or with a refusal; the service gets no whole request.
    Cut,
    /// Understood in the one way that the standard allows; the service sees so many requests.
    Served(usize),
    /// So many are served, and what follows is refused.
    ServedThenRefused(usize),
}

use Expect::{Cut, Refused, Served, ServedThenRefused};

pub(crate) const BAD: Expect = Refused(&[400]);

/// What it tries, the message, what must come of it.
pub(crate) type Message = (String, Vec<u8>, Expect);

const HOST: &str = "host: api.example.com\r\n";
const CLOSE: &str = "connection: close\r\n\r\n";

/// Request lines (RFC 9112 sections 2.2, 2.3 and 3).
pub(crate) fn lines() -> Vec<Message> {
    [
        ("GET / http/1.1", BAD),
        ("GET / HTTP/1.10", BAD),
        ("GET / HTTP/11", BAD),
        ("GET / HTTP/1", BAD),
        ("GET / HTTP/01.1", BAD),
        ("GET / HTTP/1.1 ", BAD),
        ("GET / HTTP/1.1x", BAD),
        ("GET / HTTP/3.0", BAD),
        ("GET\t/\tHTTP/1.1", BAD),
        ("GET /  HTTP/1.1", BAD),
        (" GET / HTTP/1.1", BAD),
        ("G\0T / HTTP/1.1", BAD),
        ("GET\r / HTTP/1.1", BAD),
        ("GET /a\rb HTTP/1.1", BAD),
        ("GET /a\0b HTTP/1.1", BAD),
        ("GET /a\u{1}b HTTP/1.1", BAD),
        ("GET /a\u{7f}b HTTP/1.1", BAD),
        ("GET /\u{e9} HTTP/1.1", BAD),
        ("GET /a b HTTP/1.1", BAD),
        ("GET /a%zz HTTP/1.1", BAD),
        ("GET /a%2fb HTTP/1.1", BAD),
        ("GET /../../etc/passwd HTTP/1.1", BAD),
        ("GET /a;b HTTP/1.1", BAD),
        ("GET \\ HTTP/1.1", BAD),
        ("GET ?a HTTP/1.1", BAD),
        ("GET api.example.com:443 HTTP/1.1", BAD),
        ("GET http://user@api.example.com/ HTTP/1.1", BAD),
        ("GET ftp://api.example.com/ HTTP/1.1", BAD),
        ("GET https://api.example.com:444/ HTTP/1.1", BAD),
        ("GET https:///x HTTP/1.1", BAD),
        ("TRACE / HTTP/1.1", Refused(&[405])),
        ("\"GET\" / HTTP/1.1", BAD),
        ("G\u{e9}T / HTTP/1.1", BAD),
        ("{} / HTTP/1.1", BAD),
        ("/ HTTP/1.1", BAD),
        ("HTTP/1.1 200 OK", BAD),
        ("get / HTTP/1.1", Refused(&[501])),
        ("M-SEARCH / HTTP/1.1", Served(1)),
        ("GET https://api.example.com HTTP/1.1", Served(1)),
        ("GET /?a=/../b HTTP/1.1", Served(1)),
        ("\r\nGET / HTTP/1.1", Served(1)),
        ("GET / HTTP/1.0", Served(1)),
    ]
    .map(|(line, expect)| {
        let message = format!("{line}\r\n{HOST}{CLOSE}");
        (format!("line {line:?}"), message.into_bytes(), expect)
    })
    .into()
}

/// Fields of a GET (RFC 9112 sections 3.2 and 5).
pub(crate) fn fields() -> Vec<Message> {
    let hosted: [(&str, Expect); 19] = [
        ("x(y: a\r\n", BAD),
        ("x\ty: a\r\n", BAD),
        ("x\u{7f}y: a\r\n", BAD),
        ("x\u{e9}y: a\r\n", BAD),
        ("x\r: a\r\n", BAD),
        ("x\t: a\r\n", BAD),
        ("x: a\u{1}b\r\n", BAD),
        ("x: a\u{7f}b\r\n", BAD),
        ("x: a\u{b}b\r\n", BAD),
        ("x: a\r\n\tb\r\n", BAD),
        ("\t\r\n", BAD),
        ("x\r\n", BAD),
        ("x: a\r\r\n", BAD),
        ("host: other.example.com\r\n", BAD),
        ("x:\r\n", Served(1)),
        ("x: a\tb \r\n", Served(1)),
        ("expect: 200-maybe\r\n", Served(1)),
        (
            "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n",
            Served(1),
        ),
        ("connection: host\r\nconnection: content-length\r\n", Served(1)),
    ];
    let hosts: [(&str, Expect); 10] = [
        ("host:\r\n", BAD),
        ("host: api.example.com, api.example.com\r\n", BAD),
        ("host: api.example.com other\r\n", BAD),
        ("host: user@api.example.com\r\n", BAD),
        ("host: api.example.com:80:80\r\n", BAD),
        ("host: api.example.com:x\r\n", BAD),
        ("host: api.example.com#\r\n", BAD),
        ("host: https://api.example.com\r\n", BAD),
        ("x-host: api.example.com\r\n", BAD),
        ("host: \tAPI.example.com.:443 \r\n", Served(1)),
    ];
    let get = |fields: &str| format!("GET / HTTP/1.1\r\n{fields}{CLOSE}").into_bytes();
    let mut messages: Vec<Message> = hosted
        .map(|(field, expect)| (format!("field {field:?}"), get(&format!("{HOST}{field}")), expect))
        .into();
    messages.extend(hosts.map(|(host, expect)| (format!("field {host:?}"), get(host), expect)));
    let absolute = format!("GET https://api.example.com/ HTTP/1.1\r\n{CLOSE}");
    messages.push((
        "an absolute target without a host".to_owned(),
        absolute.into_bytes(),
        BAD,
    ));
    let ends = format!("GET / HTTP/1.1\r{HOST}\r\r");
    messages.push(("lines ended by CR".to_owned(), ends.into_bytes(), BAD));
    messages
}

/// How long the body is (RFC 9112 section 6).
pub(crate) fn lengths() -> Vec<Message> {
    const CODING: Expect = Refused(&[400, 501]);
    let chunks = "1\r\na\r\n0\r\n\r\n";
    let mut messages: Vec<Message> = [
        ("content-length: 1e0", "a", BAD),
        ("content-length: 1.0", "a", BAD),
        ("content-length: 1_0", "a", BAD),
        ("content-length: 1 1", "a", BAD),
        ("content-length: 1,1", "a", BAD),
        ("content-length: \u{661}", "a", BAD),
        ("content-length: \u{b}1", "a", BAD),
        ("content-length: one", "a", BAD),
        ("content-length: 1;", "a", BAD),
        ("content-length : 1", "a", BAD),
        ("content-length: 1\r\ncontent-length: 1", "a", Served(1)),
        ("content-length: \t1 ", "a", Served(1)),
        ("content-length: 001", "a", Served(1)),
        ("content-length: 1\r\nconnection: content-length", "a", Served(1)),
        ("transfer-encoding: identity", chunks, CODING),
        ("transfer-encoding: chunked, chunked", chunks, CODING),
        (
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
            chunks,
            CODING,
        ),
        (
            "transfer-encoding: chunked\r\ntransfer-encoding: identity",
            chunks,
            CODING,
        ),
        (
            "transfer-encoding: identity\r\ntransfer-encoding: chunked",
            chunks,
            CODING,
        ),
        ("transfer-encoding: gzip, chunked", chunks, CODING),
        ("transfer-encoding: , chunked", chunks, CODING),
        ("transfer-encoding: \"chunked\"", chunks, CODING),
        ("transfer-encoding: chunked;q=1", chunks, CODING),
        ("transfer-encoding: chunke", chunks, CODING),
        ("transfer-encoding: chunked\u{b}", chunks, BAD),
        ("transfer-encoding: \u{b}chunked", chunks, BAD),
        ("transfer-encoding:", chunks, CODING),
        ("transfer-encoding\t: chunked", chunks, BAD),
        ("transfer-encoding: x\r\n chunked", chunks, BAD),
        (
            "transfer-encoding: cow\r\ntransfer-encoding: chunked",
            chunks,
            CODING,
        ),
        ("Transfer-Encoding: CHUNKED", chunks, Served(1)),
        ("transfer-encoding:\tchunked\t", chunks, Served(1)),
        (
            "transfer-encoding: chunked\r\nconnection: transfer-encoding",
            chunks,
            Served(1),
        ),
    ]
    .map(|(field, body, expect)| {
        let message = format!("POST /length HTTP/1.1\r\n{HOST}{field}\r\n{CLOSE}{body}");
        (format!("length {field:?}"), message.into_bytes(), expect)
    })
    .into();
    let get = format!("GET / HTTP/1.1\r\n{HOST}content-length: 1\r\n{CLOSE}a");
    messages.push(("a GET with a body".to_owned(), get.into_bytes(), Served(1)));
    messages
}

/// Chunks and trailers (RFC 9112 section 7.1).
pub(crate) fn chunks() -> Vec<Message> {
    let long = format!("1;{}\r\na\r\n0\r\n\r\n", "a".repeat(20_000));
    let trailers = format!("1\r\na\r\n0\r\n{}\r\n", "x: y\r\n".repeat(2000));
    let mut messages: Vec<Message> = [
        ("0x1\r\na\r\n0\r\n\r\n", Cut),
        ("-1\r\na\r\n0\r\n\r\n", Cut),
        ("+1\r\na\r\n0\r\n\r\n", Cut),
        (" 1\r\na\r\n0\r\n\r\n", Cut),
        ("1_0\r\na\r\n0\r\n\r\n", Cut),
        ("\r\na\r\n0\r\n\r\n", Cut),
        (";a\r\na\r\n0\r\n\r\n", Cut),
        ("FFFFFFFFFFFFFFFFF\r\na\r\n0\r\n\r\n", Cut),
        ("1;a\nb\r\na\r\n0\r\n\r\n", Cut),
        ("1;a\n\r\na\r\n0\r\n\r\n", Cut),
        ("1\r\na0\r\n\r\n", Cut),
        ("1\r\na\r0\r\n\r\n", Cut),
        ("1\r\na\n0\r\n\r\n", Cut),
        ("1\ra\r\n0\r\n\r\n", Cut),
        ("1\r\na\r\n0\r\nno colon\r\n\r\n", Cut),
        ("1\r\na\r\n0\r\nx : a\r\n\r\n", Cut),
        ("1\r\na\r\n0\r\nx: a\0\r\n\r\n", Cut),
        ("1;a=b;c=\"d\"\r\na\r\n0\r\n\r\n", Served(1)),
        ("01\r\na\r\n000\r\n\r\n", Served(1)),
        ("1\r\na\r\n0\r\nx: y\r\n\r\n", Served(1)),
        (
            "1\r\na\r\n0\r\ncontent-length: 9\r\nhost: other.example.com\r\ntransfer-encoding: chunked\r\n\r\n",
            Served(1),
        ),
    ]
    .map(|(body, expect)| (format!("chunks {body:?}"), chunked(body), expect))
    .into();
    messages.push(("a long extension".to_owned(), chunked(&long), Cut));
    messages.push(("many trailers".to_owned(), chunked(&trailers), Cut));
    messages
}

fn chunked(body: &str) -> Vec<u8> {
    format!("POST /length HTTP/1.1\r\n{HOST}transfer-encoding: chunked\r\n{CLOSE}{body}").into_bytes()
}

/// Several messages on one connection (RFC 9112 section 9.3.2).
pub(crate) fn pipelines() -> Vec<Message> {
    let get = format!("GET / HTTP/1.1\r\n{HOST}\r\n");
    let last = format!("GET / HTTP/1.1\r\n{HOST}{CLOSE}");
    let post = format!("POST /length HTTP/1.1\r\n{HOST}content-length: 5\r\n\r\nhello");
    let chunks =
        format!("POST /length HTTP/1.1\r\n{HOST}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    [
        ("ten", format!("{}{last}", get.repeat(9)), Served(10)),
        (
            "bodies between",
            format!("{post}{chunks}{get}{post}{last}"),
            Served(5),
        ),
        ("an empty line between", format!("{get}\r\n{last}"), Served(2)),
        (
            "a body longer than its length",
            format!("{post}GARBAGE\r\n\r\n"),
            ServedThenRefused(1),
        ),
        (
            "a body after the last chunk",
            format!("{chunks}GARBAGE\r\n\r\n"),
            ServedThenRefused(1),
        ),
        (
            "after a closing one",
            format!("{last}{}", get.replace("GET /", "GET /smuggled")),
            Served(1),
        ),
        (
            "after HTTP/1.0",
            format!(
                "GET / HTTP/1.0\r\n{HOST}\r\n{}",
                get.replace("GET /", "GET /smuggled")
            ),
            Served(1),
        ),
    ]
    .map(|(what, message, expect)| (format!("pipeline: {what}"), message.into_bytes(), expect))
    .into()
}
