//! SYN defence: answers on the bench, frame by frame, and connections in the lab, under a flood.

mod bench;
mod flood;
mod segments;
