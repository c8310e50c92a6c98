//! The API gateway.

pub mod signal;
