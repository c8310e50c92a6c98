//! The API gateway.

pub mod identity;
pub mod limit;
pub mod problem;
pub mod signal;
