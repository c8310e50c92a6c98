//! What the agent asks of Linux: clocks, memory, interfaces, sysctls. Apart from the kernel programs, the only crate with
//! unsafe code.

pub mod bpf;
pub mod clock;
pub mod descriptors;
pub mod interfaces;
pub mod links;
pub mod memory;
pub mod process;
pub mod stack;
pub mod sysctl;
