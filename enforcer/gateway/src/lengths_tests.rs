use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::fuzz;

/// Which request is in doubt, if the bytes come in such pieces.
fn in_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<u64> {
    let mut lengths = Lengths::new();
    let mut all = pieces.into_iter().filter_map(|piece| lengths.follow(piece));
    let doubtful = all.next();
    assert_eq!(all.next(), None, "nothing is followed any more");
    doubtful
}

/// The same however they come, and no other than hyper finds.
fn doubtful(message: &str) -> Option<u64> {
    let bytes = message.as_bytes();
    let whole = in_pieces([bytes]);
    for at in 0..=bytes.len() {
        let (one, other) = bytes.split_at(at);
        assert_eq!(in_pieces([one, other]), whole, "{message:?} at {at}");
    }
    assert_eq!(in_pieces(bytes.chunks(1)), whole, "{message:?} byte by byte");
    fuzz::lengths(bytes);
    whole
}

fn post(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n")
}

#[test]
fn both_fields_are_found() {
    for fields in [
        "content-length: 6\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 6\r\n",
        "Content-Length: 6\r\nTRANSFER-ENCODING: chunked\r\n",
        "tRANSFER-eNCODING:chunked\r\nx: y\r\ncONTENT-lENGTH:6\r\n",
        "content-length: 0\r\ntransfer-encoding: chunked\r\n",
        "content-length:\t 0 \r\nx: y\r\ntransfer-encoding:\r\n",
        "content-length: 5\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\ncontent-length: 1\r\n",
        "transfer-encoding: chunked\r\ncontent-length: none\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 18446744073709551616\r\n",
        "transfer-encoding: gzip, chunked\r\ncontent-length: 1\r\n",
        "content-length: 6\ntransfer-encoding: chunked\n",
        "connection: content-length\r\ncontent-length: 6\r\ntransfer-encoding: chunked\r\n",
        "content-type: a\r\ncontent-length: 6\r\nte: trailers\r\ntransfer-encoding: chunked\r\n",
    ] {
        let message = format!("{}0\r\n\r\n", post(fields));
        assert_eq!(doubtful(&message), Some(1), "{message:?}");
        assert_eq!(doubtful(&format!("\r\n\n\r\n{message}")), Some(1), "{message:?}");
    }
}

#[test]
fn one_field_is_no_doubt() {
    for fields in [
        "",
        "content-length: 0\r\n",
        "content-length: 0\r\ncontent-length: 0\r\n",
        "content-length: 0\r\nx-transfer-encoding: chunked\r\n",
        "content-length: 0\r\ntransfer-encodings: chunked\r\n",
        "content-length: 0\r\ntransfer-encodin: chunked\r\n",
        "content-length: 0\r\nx: transfer-encoding: chunked\r\n",
        "content-length: 0\r\nx: a\rtransfer-encoding: chunked\r\n",
        "content-length: 0\r\n transfer-encoding: chunked\r\n",
        "content-length: 0\r\ntransfer-encoding : chunked\r\n",
        "content-length: 0\r\ntransfer_encoding: chunked\r\n",
        "content-length: 0\r\ntrailer: transfer-encoding\r\n",
        "content-length : 0\r\n",
    ] {
        assert_eq!(doubtful(&post(fields)), None, "{fields:?}");
    }
    let request_line = "content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(doubtful(request_line), None, "the first line is no field");
}

#[test]
fn requests_are_counted_over_bodies() {
    let both = post("content-length: 3\r\ntransfer-encoding: chunked\r\n");
    let get = "GET / HTTP/1.1\nhost: a\n\n";
    // What looks like a head within a body is none.
    let length = both.len();
    let by_length = format!("{}{both}", post(&format!("content-length: {length}\r\n")));
    let chunked = post("transfer-encoding: chunked\r\n");
    let by_chunks =
        format!("{chunked}{length:x}\r\n{both}\r\n00{length:X} ;a=\"{both:.4}\"\r\n{both}\r\n0\r\n\r\n");
    let extended = format!("{chunked}1;a\r\n\n\r\n0 ; content-length: 1\r\n\r\n");
    let trailers = format!("{chunked}0\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n");
    // A line of a trailer ends in CRLF, so that the empty line is another, as hyper has it.
    let open = format!("{chunked}0\r\na: b\n\r\n{both}\r\n\r\n");
    for before in [get, &by_length, &by_chunks, &extended, &trailers, &open, "\r\n\n"] {
        let count = u64::from(before.trim_ascii() != "");
        assert_eq!(doubtful(before), None, "{before:?}");
        assert_eq!(
            doubtful(&format!("{before}{both}")),
            Some(count + 1),
            "{before:?}"
        );
        let twice = format!("{before}{get}{before}\r\n{both}{both}");
        assert_eq!(doubtful(&twice), Some(2 * count + 2), "{before:?}");
    }
}

#[test]
fn what_hyper_refuses_is_not_followed() {
    let both = post("content-length: 0\r\ntransfer-encoding: chunked\r\n");
    let chunked = post("transfer-encoding: chunked\r\n");
    for before in [
        post("content-length: +1\r\n"),
        post("content-length:\r\n"),
        post("content-length: 18446744073709551616\r\n"),
        format!("{chunked}\r\n"),
        format!("{chunked}x\r\n"),
        format!("{chunked}10000000000000000\r\n"),
        format!("{chunked}fffffffffffffffe\r\n"),
    ] {
        assert_eq!(doubtful(&format!("{before}{both}")), None, "{before:?}");
    }
    let end = format!("{}a{both}", post("content-length: 18446744073709551615\r\n"));
    assert_eq!(in_pieces([end.as_bytes()]), None, "a body without an end");
    assert_eq!(Lengths::unfollowed().follow(both.as_bytes()), None);
}

/// A message, and whether it has both fields.
fn message() -> impl Strategy<Value = (String, bool)> {
    const FIELDS: [&str; 9] = [
        "content-lengths: 7",
        "content-type: a",
        "cookie: transfer-encoding: chunked",
        "te: trailers",
        "transfer-coding: chunked",
        "expect: 100-continue",
        "upgrade: websocket",
        "x: content-length: 1",
        "t:",
    ];
    const PIECES: [&str; 8] = [
        "a",
        "\r\n",
        "\n",
        "\r\n\r\n",
        "0\r\n\r\n",
        "GET / HTTP/1.1\r\n",
        "Content-Length: 1\r\n",
        "Transfer-Encoding: chunked\r\n",
    ];
    let body = vec(
        vec(select(&PIECES[..]), 0..6).prop_map(|pieces| pieces.concat()),
        0..4,
    );
    let fields = vec(select(&FIELDS[..]), 0..5);
    let lengths = (0_u8..8, any::<[bool; 4]>());
    (fields, any::<prop::sample::Index>(), body, lengths).prop_map(|(fields, place, body, (kind, ways))| {
        let [upper, lone, first, trailer] = ways;
        let (is_chunked, has_length) = (kind < 3, (2..6).contains(&kind));
        let mut named = Vec::new();
        if is_chunked {
            named.push("transfer-encoding: chunked".to_owned());
        }
        if has_length {
            let length = format!("content-length: {}", body.concat().len());
            named.insert(if first { 0 } else { named.len() }, length);
        }
        if upper {
            named
                .iter_mut()
                .for_each(|field| *field = field.replace("content-length", "CONTENT-Length"));
        }
        let mut lines: Vec<String> = fields.into_iter().map(str::to_owned).collect();
        let at = place.index(lines.len() + 1);
        lines.splice(at..at, named);
        let end = if lone { "\n" } else { "\r\n" };
        let mut text = format!("POST / HTTP/1.1{end}host: a{end}");
        lines.iter().for_each(|line| text.extend([line, end]));
        text.push_str(end);
        if is_chunked {
            for chunk in body.iter().filter(|chunk| !chunk.is_empty()) {
                text.push_str(&format!("{:x}\r\n{chunk}\r\n", chunk.len()));
            }
            text.push_str(if trailer {
                "0\r\ncontent-length: 1\r\n\r\n"
            } else {
                "0\r\n\r\n"
            });
        } else if has_length {
            text.extend(body);
        }
        (text, is_chunked && has_length)
    })
}

proptest! {
    #[test]
    fn the_first_of_several_is_found(
        messages in vec(message(), 1..6),
        cuts in vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let text: String = messages.iter().map(|(text, _)| &**text).collect();
        let first = messages.iter().position(|(_, has_both)| *has_both);
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len())).collect();
        ends.push(text.len());
        ends.sort_unstable();
        let starts = [0].into_iter().chain(ends.iter().copied());
        let pieces = starts.zip(&ends).map(|(start, end)| &text.as_bytes()[start..*end]);
        prop_assert_eq!(in_pieces(pieces), first.map(|position| position as u64 + 1));
        fuzz::lengths(text.as_bytes());
    }
}
