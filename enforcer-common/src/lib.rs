//! What the kernel programs and the agent share: limiters, map layouts, verdicts and reasons.
#![no_std]

pub mod limiter;
