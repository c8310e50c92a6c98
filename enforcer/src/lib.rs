//! Enforcer, the agent: see `docs/architecture.md` for how its parts fit.

pub mod config;
pub mod gateway;
pub mod policy;
