//! Connections in the lab, under a flood.
