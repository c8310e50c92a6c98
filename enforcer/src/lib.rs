//! Enforcer, the agent: see `docs/architecture.md` for how its parts fit.

#![forbid(unsafe_code)]

pub mod adapt;
pub mod admin;
pub mod agent;
pub mod agent_lock;
pub mod check;
pub mod cli;
pub mod config;
#[doc(hidden)]
pub mod fuzz;
pub mod replay;
