//! Builds the lab's own kernel programs.
#![forbid(unsafe_code)]

fn main() -> anyhow::Result<()> {
    bpf_toolchain::build("lab-ebpf", concat!(env!("CARGO_MANIFEST_DIR"), "/ebpf"), &[])
}
