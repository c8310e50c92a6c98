//! Enforcer, the agent: see `docs/architecture.md` for how its parts fit.

// Of one crate, `kernel` alone may: all others say so for good.
#![deny(unsafe_code)]

#[forbid(unsafe_code)]
pub mod adapt;
#[forbid(unsafe_code)]
pub mod admin;
#[forbid(unsafe_code)]
pub mod agent;
#[forbid(unsafe_code)]
pub mod agent_lock;
#[forbid(unsafe_code)]
pub mod check;
#[forbid(unsafe_code)]
pub mod cli;
#[forbid(unsafe_code)]
pub mod config;
#[doc(hidden)]
#[forbid(unsafe_code)]
pub mod fuzz;
#[forbid(unsafe_code)]
pub mod replay;
