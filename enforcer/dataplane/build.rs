//! Builds the kernel programs and embeds them into the crate that loads them.
#![forbid(unsafe_code)]

fn main() -> anyhow::Result<()> {
    bpf_toolchain::build(
        "enforcer-ebpf",
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../enforcer-ebpf"),
        &[concat!(env!("CARGO_MANIFEST_DIR"), "/../../enforcer-common/src")],
    )
}
