//! Requests that say twice how long they are, which hyper does not tell of.
//!
//! A request with `Content-Length` and `Transfer-Encoding` is how smuggling begins (RFC 9112 section 11.2). hyper reads
//! it by its transfer coding, drops the length, and ends the connection after it. Here the bytes of a client of HTTP/1.1
//! are followed on their way to hyper, as far as it takes to find each head and the names of its fields, and the first
//! request that has both is told by its number: the gateway refuses it (section 6.1).
//!
//! hyper alone decides what a request is. What it takes is read here as it reads it; where it refuses something the
//! connection ends, so that whatever is made of the rest does not matter. Should the two differ nevertheless, a request
//! is refused that need not be, or one with both is read as hyper reads it, which section 6.3 allows: nothing that comes
//! to a service rests on what is read here.

use std::mem;

use memchr::memchr;

/// Follows the requests of a connection. Of what it has seen it keeps nothing but where it is.
#[derive(Debug)]
pub(super) struct Lengths {
    place: Place,
    /// How many heads have begun.
    heads: u64,
    /// Of the head that is read, and its body's until that is skipped.
    length: Option<u64>,
    is_chunked: bool,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// A head, or empty lines before it.
    Before,
    /// A line that says nothing, or nothing more.
    Line,
    /// The beginning of a line behind the request's.
    Start,
    /// The name of a field, of which this much is to come.
    Name(Field, &'static [u8]),
    /// The value of `Content-Length`.
    Value(Option<u64>),
    /// So many bytes that say nothing.
    Skipped(u64, Next),
    /// A chunk's size.
    Size(Option<u64>),
    /// What follows the size in its line.
    SizeLine(u64),
    /// The beginning of a trailer's line.
    TrailerStart,
    TrailerLine,
    /// Nothing is looked for any more.
    Over,
}

#[derive(Clone, Copy, Debug)]
enum Field {
    Length,
    Coding,
}

/// What comes behind bytes that are skipped.
#[derive(Clone, Copy, Debug)]
enum Next {
    Body,
    Chunk,
    Trailer,
    Head,
}

impl Lengths {
    /// Of a connection whose first request is to come.
    pub(super) fn new() -> Self {
        Self {
            place: Place::Before,
            heads: 0,
            length: None,
            is_chunked: false,
        }
    }

    /// Of a connection whose messages have one length each, as those of HTTP/2 have.
    pub(super) fn unfollowed() -> Self {
        Self {
            place: Place::Over,
            ..Self::new()
        }
    }

    /// Follows `bytes`, which come next. Returns the number of the request in them that has both fields, from 1; what
    /// is behind that is not followed.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> Option<u64> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.step(rest) {
                Some(behind) => rest = behind,
                None => {
                    let last = mem::replace(self, Self::unfollowed());
                    let has_both = last.is_chunked && last.length.is_some();
                    return has_both.then_some(last.heads);
                }
            }
        }
        None
    }

    /// Whether a head has begun and not ended.
    pub(super) fn is_in_head(&self) -> bool {
        matches!(
            self.place,
            Place::Line | Place::Start | Place::Name(..) | Place::Value(_) | Place::Skipped(_, Next::Body)
        )
    }

    /// Goes on to another place, or to the end of `bytes`, which are not empty. Returns those that are behind; nothing
    /// where there is nothing more to follow.
    fn step<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        match self.place {
            Place::Before => {
                // Empty lines are left out (RFC 9112 section 2.2).
                let Some(start) = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')) else {
                    return Some(&[]);
                };
                self.heads += 1;
                self.length = None;
                self.is_chunked = false;
                self.place = Place::Line;
                Some(&bytes[start..])
            }
            Place::Line => Some(self.past(b'\n', bytes, Place::Start)),
            Place::Start => {
                self.place = match bytes[0] {
                    b'c' | b'C' => Place::Name(Field::Length, b"content-length:"),
                    b't' | b'T' => Place::Name(Field::Coding, b"transfer-encoding:"),
                    b'\r' => Place::Skipped(2, Next::Body),
                    b'\n' => Place::Skipped(1, Next::Body),
                    _ => Place::Line,
                };
                Some(bytes)
            }
            Place::Name(field, name) => self.name(field, name, bytes),
            Place::Value(value) => {
                let (value, rest) = match value {
                    None => number(None, 10, without_spaces(bytes))?,
                    begun => number(begun, 10, bytes)?,
                };
                self.place = Place::Value(value);
                if !rest.is_empty() {
                    self.length = Some(value?);
                    self.place = Place::Line;
                }
                Some(rest)
            }
            Place::Skipped(left, next) => {
                let (left, rest) = skip(left, bytes);
                self.place = if left > 0 {
                    Place::Skipped(left, next)
                } else {
                    self.behind(next)
                };
                Some(rest)
            }
            Place::Size(size) => {
                let (size, rest) = number(size, 16, bytes)?;
                self.place = Place::Size(size);
                if !rest.is_empty() {
                    self.place = Place::SizeLine(size?);
                }
                Some(rest)
            }
            Place::SizeLine(0) => Some(self.past(b'\n', bytes, Place::TrailerStart)),
            Place::SizeLine(size) => {
                // With the CRLF behind it.
                let chunk = Place::Skipped(size.checked_add(2)?, Next::Chunk);
                Some(self.past(b'\n', bytes, chunk))
            }
            Place::TrailerStart if bytes[0] == b'\r' => {
                self.place = Place::Skipped(2, Next::Head);
                Some(bytes)
            }
            // A line of a trailer ends in CRLF alone.
            Place::TrailerStart | Place::TrailerLine => {
                self.place = Place::TrailerLine;
                Some(self.past(b'\r', bytes, Place::Skipped(1, Next::Trailer)))
            }
            Place::Over => None,
        }
    }

    /// What follows the next `end` in `bytes`, which is at `place`.
    fn past<'a>(&mut self, end: u8, bytes: &'a [u8], place: Place) -> &'a [u8] {
        match memchr(end, bytes) {
            Some(end) => {
                self.place = place;
                &bytes[end + 1..]
            }
            None => &[],
        }
    }

    /// Compares `bytes` with what is to come of a field's name and colon.
    fn name<'a>(&mut self, field: Field, name: &'static [u8], bytes: &'a [u8]) -> Option<&'a [u8]> {
        let common = name.len().min(bytes.len());
        let (now, rest) = bytes.split_at(common);
        if !now.eq_ignore_ascii_case(&name[..common]) {
            self.place = Place::Line;
            return Some(bytes);
        }
        self.place = match field {
            _ if common < name.len() => Place::Name(field, &name[common..]),
            Field::Length => {
                if self.is_chunked {
                    // Whatever it is.
                    self.length = Some(0);
                    return None;
                }
                Place::Value(None)
            }
            Field::Coding => {
                self.is_chunked = true;
                if self.length.is_some() {
                    return None;
                }
                Place::Line
            }
        };
        Some(rest)
    }

    fn behind(&self, next: Next) -> Place {
        match (next, self.length) {
            // hyper takes no other coding.
            (Next::Body, _) if self.is_chunked => Place::Size(None),
            (Next::Body, Some(length)) if length > 0 => Place::Skipped(length, Next::Head),
            (Next::Body, _) | (Next::Head, _) => Place::Before,
            (Next::Chunk, _) => Place::Size(None),
            (Next::Trailer, _) => Place::TrailerStart,
        }
    }
}

fn without_spaces(bytes: &[u8]) -> &[u8] {
    let spaces = bytes.iter().take_while(|byte| matches!(byte, b' ' | b'\t'));
    &bytes[spaces.count()..]
}

/// The number that goes on in `bytes` and had that value so far, and what is behind it. Nothing beyond 64 bits.
fn number(begun: Option<u64>, radix: u32, bytes: &[u8]) -> Option<(Option<u64>, &[u8])> {
    let mut value = begun;
    let mut rest = bytes;
    while let Some((&byte, behind)) = rest.split_first()
        && let Some(digit) = char::from(byte).to_digit(radix)
    {
        let before = value.unwrap_or(0).checked_mul(radix.into())?;
        value = Some(before.checked_add(digit.into())?);
        rest = behind;
    }
    Some((value, rest))
}

/// How much of `left` bytes is left behind `bytes`, and what is behind it in them.
fn skip(left: u64, bytes: &[u8]) -> (u64, &[u8]) {
    match usize::try_from(left) {
        Ok(left) if left <= bytes.len() => (0, &bytes[left..]),
        _ => (left - bytes.len() as u64, &[]),
    }
}

#[cfg(test)]
#[path = "lengths_tests.rs"]
mod tests;
