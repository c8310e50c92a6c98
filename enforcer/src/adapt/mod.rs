//! The control loop: what the kernel counts and what services suffer become limits.

pub mod failures;
pub mod law;
pub mod services;
pub mod syn;
