//! The agent's library and commands from outside.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod admin;
mod audit_log;
mod config;
mod docs_examples;
mod hostile_inputs;
