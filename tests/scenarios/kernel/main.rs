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
mod datagrams;
mod denials;
mod egress;
mod egress_limits;
mod egress_replies;
mod egress_rules;
mod egress_scope;
mod ethernet;
mod flows;
mod generations;
mod hidden;
mod identities;
mod ipv4;
mod ipv6;
mod lapse;
mod levels;
mod lifeline;
mod limits;
mod ports;
mod random;
mod rates;
mod recents;
mod resets;
mod revoked;
mod shadow;
mod traffic;
mod transport;
mod trials;
