//! Egress of pods and of the node, by default denied: what policies allow is reached, replies leave, and nothing
//! else, in both families; also for pods that appear while the agent runs. By TCX or by clsact, as the kernel has it.

mod cluster;
mod limits;
mod node;
mod pods;
