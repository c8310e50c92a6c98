//! The agent: it starts the kernel half and the gateway, lets each tell the other what it knows, and
//! keeps policies in force.

mod applying;
mod chores;
pub mod controller;
mod convert;
pub mod denials;
mod denying;
mod descriptors;
pub mod events;
pub mod explain;
mod explain_egress;
mod heartbeat;
mod joining;
pub mod kept;
mod links;
mod metrics;
pub mod off_runtime;
mod privileges;
mod reload;
pub mod revoke;
mod revoke_proof;
mod run;
pub mod state;
mod stop;
mod syn;

pub use privileges::drop_own_privileges;
pub use run::{RunError, run};
