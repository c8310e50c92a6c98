//! The network lab: a node with neighbours, each in a network namespace of its own.
//!
//! Nothing here touches the machine's own network: every address, flood and program lives in
//! namespaces that the lab makes and removes.
#![deny(unsafe_code)]

pub mod agent;
pub mod bench;
pub mod bpffs;
pub mod cleanup;
pub mod client;
pub mod demo;
pub mod flood;
pub mod frame;
pub mod fuzz;
pub mod interface;
pub mod issuer;
pub mod kernel;
pub mod linux;
pub mod load;
pub mod metrics;
pub mod netns;
pub mod ping;
pub mod pki;
pub mod privilege;
pub mod random;
pub mod reference;
pub mod resident;
pub mod residue;
pub mod serve;
pub mod steady;
mod sys;
pub mod tcp;
pub mod topology;
pub mod upstream;
pub mod workspace;
