//! The kernel programs, packet by packet: tables of a frame and what must become of it.
//!
//! Packets are handed to the programs by `BPF_PROG_TEST_RUN`, at a time that the test says. No interface
//! is involved.
#![expect(clippy::unwrap_used, reason = "the tables fail where something is missing")]

mod packets;
mod rig;

mod access;
mod actions;
mod costs;
mod denials;
mod egress;
mod ethernet;
mod flows;
mod generations;
mod ipv4;
mod ipv6;
mod lapse;
mod lifeline;
mod limits;
mod ports;
mod random;
mod rates;
mod resets;
mod revoked;
mod transport;
