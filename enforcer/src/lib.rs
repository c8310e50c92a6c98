//! Enforcer, the agent: see `docs/architecture.md` for how its parts fit.

#![deny(unsafe_code)]

pub mod adapt;
pub mod admin;
pub mod agent;
pub mod audit;
pub mod cli;
pub mod config;
pub mod gateway;
#[expect(unsafe_code, reason = "system calls that no crate of ours wraps")]
pub mod kernel;
pub mod policy;
pub mod replay;
pub mod schema;
