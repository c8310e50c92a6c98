//! The agent end to end: the real binary on a node with neighbours, driven and watched from outside.
//!
//! Each scenario makes a lab of its own and takes it down. One at a time: the agent's programs, the
//! floods and the clients share few processors.

mod adaptation;
mod asked_by_many;
mod capabilities;
mod check;
mod debug;
mod denial;
mod descriptors;
mod egress;
mod ending;
mod exposition;
mod hang_up;
mod hooks;
mod interfaces;
mod limits;
mod operator;
mod reload;
mod requests;
mod reserves;
mod revoked_proofs;
mod series;
mod setting;
mod shutdown;
mod startup;
mod storm;
mod traffic;
mod unread;
mod upstreams;
mod verified;
