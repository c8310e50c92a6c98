//! The API gateway.

pub mod identity;
pub mod signal;
