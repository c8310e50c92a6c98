//! Policies from outside: what is read, refused and watched, and what the reference says of it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod load;
mod problems;
mod reference;
mod watch;
