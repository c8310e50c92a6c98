//! The agent: it starts the kernel half and the gateway, lets each tell the other what it knows, and
//! keeps policies in force.

pub mod controller;
mod convert;
pub mod events;
pub mod explain;
mod explain_egress;
mod joining;
pub mod kept;
mod links;
mod metrics;
mod privileges;
pub mod revoke;
mod revoke_proof;
mod run;
pub mod state;
mod syn;

pub use run::{RunError, run};
