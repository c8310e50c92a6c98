//! What clients of HTTP/1.1 send, as the search for requests with two lengths follows it, beside what hyper makes of it.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};

use crate::lengths::Lengths;

/// Bytes that are read one by one.
struct OneByOne<'a> {
    bytes: &'a [u8],
    read: &'a Cell<usize>,
}

impl AsyncRead for OneByOne<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(byte) = self.bytes.get(self.read.get()) {
            buffer.put_slice(&[*byte]);
            self.read.set(self.read.get() + 1);
        }
        Poll::Ready(Ok(()))
    }
}

/// A request that hyper has found.
struct Found {
    /// How many bytes end with its head.
    end: usize,
    /// Whether its head has both fields.
    has_both: bool,
}

/// Requests of a client, in any pieces: heads end where they end for hyper, and the first with both fields that hyper
/// takes is found.
pub fn lengths(bytes: &[u8]) {
    let found = served(bytes);
    let (ends, doubtful) = followed(bytes);
    match found.iter().position(|request| request.has_both) {
        Some(position) => assert_eq!(doubtful, Some(position as u64 + 1)),
        None => assert!(doubtful.is_none_or(|number| number > found.len() as u64)),
    }
    // The one in doubt is found before its head ends.
    let ends_of_hyper: Vec<usize> = found
        .iter()
        .take_while(|one| !one.has_both)
        .map(|one| one.end)
        .collect();
    assert!(
        ends.starts_with(&ends_of_hyper),
        "{ends:?}, but {ends_of_hyper:?}"
    );
    assert_eq!(in_pieces(&[bytes]), doubtful);
    let thirds = bytes.chunks((bytes.len() / 3).max(1));
    assert_eq!(in_pieces(&thirds.collect::<Vec<_>>()), doubtful);
    if let Some(&first) = bytes.first() {
        let (one, other) = bytes.split_at(usize::from(first) % bytes.len());
        assert_eq!(in_pieces(&[one, other]), doubtful);
    }
}

/// Which request is in doubt, if the bytes come so.
fn in_pieces(pieces: &[&[u8]]) -> Option<u64> {
    let mut lengths = Lengths::new();
    let mut all = pieces.iter().filter_map(|piece| lengths.follow(piece));
    let doubtful = all.next();
    assert!(all.next().is_none(), "it is told once");
    doubtful
}

/// How many bytes end with each head, and which request is in doubt.
fn followed(bytes: &[u8]) -> (Vec<usize>, Option<u64>) {
    let mut lengths = Lengths::new();
    let (mut ends, mut doubtful) = (Vec::new(), None);
    for (position, byte) in bytes.iter().enumerate() {
        let was_in_head = lengths.is_in_head();
        doubtful = doubtful.or(lengths.follow(&[*byte]));
        if was_in_head && !lengths.is_in_head() && doubtful.is_none() {
            ends.push(position + 1);
        }
    }
    (ends, doubtful)
}

/// The requests that hyper finds.
fn served(bytes: &[u8]) -> Vec<Found> {
    let read = Cell::new(0);
    let found = RefCell::new(Vec::new());
    // How many bytes end with the body of the last; one more may have been read.
    let body = Cell::new(0);
    let service = service_fn(|request: Request<Incoming>| {
        let (from, end) = (body.get(), read.get());
        found.borrow_mut().push(Found {
            end,
            has_both: has_both(&bytes[from..end]),
        });
        let (body, read) = (&body, &read);
        async move {
            let _ended = request.into_body().collect().await;
            body.set(read.get().saturating_sub(1).max(end));
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let stream = OneByOne { bytes, read: &read };
    let stream = TokioIo::new(tokio::io::join(stream, tokio::io::sink()));
    let mut serving = pin!(
        http1::Builder::new()
            .half_close(false)
            .serve_connection(stream, service)
    );
    let mut context = Context::from_waker(Waker::noop());
    // Nothing that it waits for is elsewhere.
    // For each byte it is put off a few times at most.
    let most = 16 * (bytes.len() + 1);
    let ends = (0..most).any(|_| serving.as_mut().poll(&mut context).is_ready());
    assert!(ends, "hyper waits for something");
    found.into_inner()
}

/// Whether lines behind the first that is not empty begin with both names.
fn has_both(head: &[u8]) -> bool {
    let start = head
        .iter()
        .take_while(|byte| matches!(byte, b'\r' | b'\n'))
        .count();
    let fields = || head[start..].split(|byte| *byte == b'\n').skip(1);
    let has = |name: &[u8]| {
        fields().any(|line| {
            line.get(..name.len())
                .is_some_and(|begins| begins.eq_ignore_ascii_case(name))
        })
    };
    has(b"content-length:") && has(b"transfer-encoding:")
}
