//! YAML with places: documents become trees that know where each value stands, and serde structures
//! are read from the trees so that one mistake does not hide the next.
//!
//! Three steps: [`tree`] parses text, [`decode`] reads plain serde structures and
//! collects what does not fit ([`mistake`] says it in words), [`place`] walks a tree beside the structure that was read from it, so
//! that whoever judges a value can say where it stands.

pub mod decode;
pub mod mistake;
pub mod place;
pub mod tree;
