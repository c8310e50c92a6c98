//! The gateway from outside: requests over real sockets, limits, and tokens with real keys.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod data_path;
mod limits;
mod tokens;
