//! SYN defence: answers on the bench, frame by frame, and connections in the lab, under a flood.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod bench;
mod flood;
mod reserves;
mod scope;
mod segments;
