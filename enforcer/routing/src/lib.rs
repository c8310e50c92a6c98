//! Which rule decides about a request.
#![forbid(unsafe_code)]

pub mod conditions;
#[doc(hidden)]
pub mod fuzz;
pub mod mentioned;
pub mod router;
