//! What is written about the agent's work: the log and the audit log.
#![forbid(unsafe_code)]

pub mod audit;
pub mod logging;
