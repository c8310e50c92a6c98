//! Policies: YAML documents become types that cannot be wrong.

pub mod leaf;
pub mod model;
