//! More frames that no well-meaning client sends: heads that RFC 9113 section 8 forbids, and frames that sections 4 to
//! 6 do.

use crate::data_path::hostile_http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GET, GOAWAY, HEADERS, RST_STREAM, SETTINGS, WINDOW_UPDATE,
    fields, frame, get_with, request,
};

const PRIORITY: u8 = 2;
const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
const ACK: u8 = 1;
const PADDED: u8 = 8;

/// What it is, and the frames after the preface.
pub(crate) type Frames = (String, Vec<u8>);

/// The usual head with the value of one pseudo-field replaced.
fn replaced(name: &str, value: &str) -> Vec<u8> {
    let head: Vec<_> = GET
        .iter()
        .map(|field| if field.0 == name { (name, value) } else { *field })
        .collect();
    request(&fields(&head))
}

/// Heads that are malformed (RFC 9113 sections 8.2 and 8.3). Not among them: pseudo-fields in trailers, which section 8.1
/// wants refused. h2 (0.4.20, `Recv::recv_trailers`) keeps the fields of the frame and drops its pseudo-fields before
/// anybody else sees them, so that the gateway cannot tell; they reach nobody.
pub(crate) fn heads() -> Vec<Frames> {
    let mut frames: Vec<Frames> = [
        ("proxy-connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        (":status", "200"),
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "api.example.com"),
        ("", "a"),
        ("x y", "a"),
        ("x:y", "a"),
        ("x\r\ny", "a"),
        ("x\0", "a"),
        ("x", "a\rb"),
        ("x", "a\nb"),
        ("x", "a\u{1}b"),
        ("x", "a\u{7f}b"),
        ("content-length", "x"),
        ("content-length", "-1"),
        ("content-length", "+0"),
        ("content-length", "1, 1"),
        ("content-length", "5"),
    ]
    .map(|field| (format!("head with {field:?}"), request(&get_with(&[field]))))
    .into();
    frames.extend(
        [
            (":path", ""),
            (":method", ""),
            (":method", "G T"),
            (":authority", "a b"),
            (":path", "/a\0"),
        ]
        .map(|(name, value)| (format!("{name} {value:?}"), replaced(name, value))),
    );
    let open = [
        frame(HEADERS, END_HEADERS, 1, &fields(&GET)),
        frame(HEADERS, END_HEADERS, 1, &fields(&[("x", "y")])),
    ]
    .concat();
    frames.push(("trailers that do not end".to_owned(), open));
    let more = [
        frame(HEADERS, END_HEADERS, 1, &get_with(&[("content-length", "1")])),
        frame(DATA, END_STREAM, 1, b"abc"),
    ]
    .concat();
    frames.push(("more than its length".to_owned(), more));
    frames
}

/// Frames that are malformed (RFC 9113 sections 4 to 6).
pub(crate) fn broken() -> Vec<Frames> {
    let setting = |id: u16, value: u32| [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat();
    let get = request(&fields(&GET));
    [
        (
            "a head on stream 0",
            frame(HEADERS, END_STREAM | END_HEADERS, 0, &fields(&GET)),
        ),
        ("data on stream 0", frame(DATA, 0, 0, b"a")),
        ("settings on a stream", frame(SETTINGS, 0, 1, &[])),
        ("settings of five bytes", frame(SETTINGS, 0, 0, &[0; 5])),
        (
            "an acknowledgement with settings",
            frame(SETTINGS, ACK, 0, &setting(3, 1)),
        ),
        (
            "a window beyond 31 bits",
            frame(SETTINGS, 0, 0, &setting(4, 1 << 31)),
        ),
        ("frames too small", frame(SETTINGS, 0, 0, &setting(5, 100))),
        ("frames too large", frame(SETTINGS, 0, 0, &setting(5, 1 << 24))),
        ("push that is 2", frame(SETTINGS, 0, 0, &setting(2, 2))),
        ("a ping of seven bytes", frame(PING, 0, 0, &[0; 7])),
        ("a ping on a stream", frame(PING, 0, 1, &[0; 8])),
        (
            "a window update of three bytes",
            frame(WINDOW_UPDATE, 0, 0, &[0; 3]),
        ),
        (
            "a window that overflows",
            [frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]), get.clone()].concat(),
        ),
        (
            "an update of an idle stream",
            frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
        ),
        ("a reset of an idle stream", frame(RST_STREAM, 0, 1, &[0; 4])),
        (
            "a reset of three bytes",
            [get.clone(), frame(RST_STREAM, 0, 1, &[0; 3])].concat(),
        ),
        ("a reset on stream 0", frame(RST_STREAM, 0, 0, &[0; 4])),
        ("a goodbye on a stream", frame(GOAWAY, 0, 1, &[0; 8])),
        (
            "a push by the client",
            frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]),
        ),
        ("padding longer than the frame", frame(DATA, PADDED, 1, &[9, 0])),
        (
            "a head padded beyond itself",
            frame(HEADERS, PADDED | END_STREAM | END_HEADERS, 1, &[200, 0]),
        ),
        ("a priority of four bytes", frame(PRIORITY, 0, 1, &[0; 4])),
        (
            "something between head and continuation",
            [
                frame(HEADERS, END_STREAM, 1, &fields(&GET)),
                frame(PING, 0, 0, &[0; 8]),
            ]
            .concat(),
        ),
        (
            "a continuation of another stream",
            [
                frame(HEADERS, END_STREAM, 1, &fields(&GET)),
                frame(CONTINUATION, END_HEADERS, 3, &[]),
            ]
            .concat(),
        ),
        (
            "an older stream",
            [
                frame(HEADERS, END_HEADERS, 5, &fields(&GET)),
                frame(HEADERS, END_STREAM | END_HEADERS, 3, &fields(&GET)),
            ]
            .concat(),
        ),
    ]
    .map(|(what, frames)| (what.to_owned(), frames))
    .into()
}

/// Much of what is harmless once.
pub(crate) struct Flood {
    pub(crate) what: &'static str,
    /// With a request after it.
    pub(crate) frames: Vec<u8>,
    /// The type of the frame that answers each of its frames, if any does.
    pub(crate) answered_by: Option<u8>,
    /// Whether the request is served. Else the connection ends.
    pub(crate) served: bool,
}

/// How many frames a flood has.
pub(crate) const MANY: usize = 20_000;

pub(crate) fn floods() -> [Flood; 5] {
    let flood = |what, frame: Vec<u8>, answered_by| Flood {
        what,
        frames: [frame.repeat(MANY), request(&fields(&GET))].concat(),
        answered_by,
        served: true,
    };
    let open = frame(HEADERS, END_HEADERS, 3, &fields(&GET));
    let data = frame(DATA, 0, 3, &[]).repeat(MANY);
    [
        flood("pings", frame(PING, 0, 0, &[0; 8]), Some(PING)),
        flood("settings", frame(SETTINGS, 0, 0, &[]), Some(SETTINGS)),
        flood("priorities", frame(PRIORITY, 0, 9, &[0, 0, 0, 0, 16]), None),
        flood("frames of unknown types", frame(0x42, 0, 0, &[0; 8]), None),
        Flood {
            frames: [open, data].concat(),
            served: false,
            ..flood("empty data", Vec::new(), None)
        },
    ]
}
