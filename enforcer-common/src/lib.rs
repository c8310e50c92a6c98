//! What the kernel programs and the agent share: limiters, map layouts, verdicts and reasons.
//!
//! Everything here is integers and pure functions, so that the same code runs in the kernel, in the
//! agent and in tests on the host.
#![no_std]
#![cfg_attr(not(feature = "aya"), forbid(unsafe_code))]
#![cfg_attr(feature = "aya", deny(unsafe_code))]

pub mod flow_memory;
pub mod hash;
pub mod layout;
pub mod limiter;
pub mod presence;
pub mod sketch;
pub mod verdict;

#[cfg(feature = "aya")]
#[expect(unsafe_code, reason = "a type is said to be plain bytes in no other way")]
mod pod;
