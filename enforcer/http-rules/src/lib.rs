//! Rules about HTTP messages, as pure functions: what a host and a target mean, which fields end at one hop, and which
//! fields only the gateway may set.
#![forbid(unsafe_code)]

pub mod hop_by_hop;
pub mod host;
pub mod known_fields;
pub mod methods;
pub mod reserved;
pub mod target;
