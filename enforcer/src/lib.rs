//! Enforcer, the agent: see `docs/architecture.md` for how its parts fit.

pub mod adapt;
pub mod admin;
pub mod agent;
pub mod cli;
pub mod config;
pub mod gateway;
pub mod kernel;
pub mod policy;
