//! The compiler and the linker of the kernel programs.
//!
//! Debian packages a compiler with the BPF target. Elsewhere rustup's nightly serves. See the crate
//! `bpf-toolchain`, which picks between them at build time in the same order.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use super::debian;
use crate::shell;

/// The linker's version, and the versions of LLVM that it can be built with.
const LINKER: &str = "0.13.0";
const LINKER_LLVM: [u32; 3] = [21, 22, 23];

/// Debian's compiler with the BPF target, and the standard library's source.
const COMPILER: [&str; 4] = [
    "rustc-web",
    "cargo-web",
    "libstd-rust-web-dev-bpf",
    "rust-web-src",
];

pub(super) fn find_toolchain() -> Option<String> {
    bpf_toolchain::installed().map(|toolchain| toolchain.to_string())
}

pub(super) fn install_toolchain() -> Result<()> {
    if shell::program("rustup").is_none() {
        bail!(
            "rustup selects the kernel programs' compiler, and it is not installed: see https://rustup.rs (or `apt-get install rustup`), then run `cargo xtask setup`"
        );
    }
    if debian::is_here() {
        if !bpf_toolchain::debian_compiler_present() {
            debian::refresh(&COMPILER)?;
        }
        match debian_compiler() {
            Ok(()) => return Ok(()),
            Err(reason) => {
                println!("   Debian's compiler does not serve ({reason:#}): taking rustup's nightly");
            }
        }
    }
    nightly()
}

/// Installs Debian's compiler and links it into rustup.
fn debian_compiler() -> Result<()> {
    if !bpf_toolchain::debian_compiler_present() {
        for package in COMPILER {
            let Some(version) = debian::candidate(package) else {
                bail!("there is no package {package}");
            };
            if release(&version) < release(env!("CARGO_PKG_RUST_VERSION")) {
                bail!(
                    "{package} is {version}, older than {}",
                    env!("CARGO_PKG_RUST_VERSION")
                );
            }
        }
        debian::install(&COMPILER, "a Rust compiler with the BPF target")?;
    }
    println!("   rustup toolchain link {} /usr", bpf_toolchain::LINKED);
    shell::run(Command::new("rustup").args(["toolchain", "link", bpf_toolchain::LINKED, "/usr"]))
}

fn nightly() -> Result<()> {
    println!("   rustup toolchain install nightly --component rust-src");
    shell::run(Command::new("rustup").args([
        "toolchain",
        "install",
        "nightly",
        "--profile",
        "minimal",
        "--component",
        "rust-src",
    ]))
    .context("rustup could not install nightly with rust-src (no network?): mend that, then run `cargo xtask setup`")
}

/// The linker, if it starts: one whose LLVM is gone does not.
pub(super) fn find_linker() -> Option<String> {
    let linker = bpf_toolchain::bpf_linker()?;
    let version = shell::output_of(&linker, ["--version"])?;
    Some(format!("{version}, {}", linker.display()))
}

pub(super) fn install_linker() -> Result<()> {
    match bpf_toolchain::installed() {
        Some(bpf_toolchain::Toolchain::Debian) => linker_with_debians_llvm(),
        _ => released_linker(),
    }
}

/// Builds the linker with the LLVM that Debian's compiler has: a linker reads only the bitcode of
/// its own LLVM and of older ones.
fn linker_with_debians_llvm() -> Result<()> {
    let version = shell::output_of("/usr/bin/rustc", ["--version", "--verbose"])
        .context("/usr/bin/rustc does not start: run `apt-get install --reinstall rustc-web`")?;
    let llvm = llvm_version(&version).context("/usr/bin/rustc does not say which LLVM it has")?;
    if !LINKER_LLVM.contains(&llvm) {
        bail!(
            "Debian's compiler has LLVM {llvm} and bpf-linker {LINKER} knows {LINKER_LLVM:?}: install a bpf-linker for it (https://github.com/aya-rs/bpf-linker), then run `cargo xtask setup`"
        );
    }
    let prefix = format!("/usr/lib/llvm-{llvm}");
    if !Path::new(&prefix).join("bin/llvm-config").exists() {
        let package = format!("llvm-{llvm}-dev");
        debian::install(
            &[&package, "zlib1g-dev", "libzstd-dev", "libxml2-dev"],
            "LLVM's library",
        )?;
    }
    println!("   cargo install bpf-linker {LINKER} with LLVM {llvm}: about a minute");
    let feature = format!("llvm-{llvm}");
    let mut command = shell::cargo(["install", "--quiet", "--locked", "--no-default-features"]);
    command
        .args(["--features", &feature, "--version", LINKER, "bpf-linker"])
        .env("LLVM_PREFIX", prefix)
        // Not into this workspace's target folder: its profiles are not the linker's.
        .env_remove("CARGO_TARGET_DIR");
    shell::run(&mut command)
}

/// The linker's published program, which carries its LLVM: what its authors recommend.
fn released_linker() -> Result<()> {
    if shell::program("cargo-binstall").is_some() {
        let version = format!("bpf-linker@{LINKER}");
        println!("   cargo binstall {version}");
        return shell::run(&mut shell::cargo(["binstall", "--no-confirm", &version]));
    }
    let architecture = std::env::consts::ARCH;
    let address = format!(
        "https://github.com/aya-rs/bpf-linker/releases/download/v{LINKER}/bpf-linker-{architecture}-unknown-linux-musl.tar.zst"
    );
    let folder = cargo_programs().context("neither CARGO_HOME nor HOME says where cargo's programs are")?;
    std::fs::create_dir_all(&folder)?;
    let archive = folder.join("bpf-linker.tar.zst");
    println!("   {address}");
    let fetched = shell::run(
        Command::new("curl")
            .args([
                "--fail",
                "--silent",
                "--show-error",
                "--location",
                &address,
                "--output",
            ])
            .arg(&archive),
    )
    .and_then(|()| {
        shell::run(
            Command::new("tar")
                .args(["--zstd", "--extract", "--file"])
                .arg(&archive)
                .arg("--directory")
                .arg(&folder),
        )
    });
    let _ = std::fs::remove_file(&archive);
    fetched.context(
        "bpf-linker could not be fetched (no network?): install it as https://github.com/aya-rs/bpf-linker says, then run `cargo xtask setup`",
    )
}

fn cargo_programs() -> Option<std::path::PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(std::path::PathBuf::from);
    home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
        .map(|home| home.join("bin"))
}

/// The major version of LLVM in what `rustc --version --verbose` prints.
fn llvm_version(verbose: &str) -> Option<u32> {
    let version = verbose
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.trim().parse().ok()
}

/// Major and minor number of a version, Debian's or ours: to compare.
fn release(version: &str) -> (u32, u32) {
    let mut numbers = version
        .split(|character: char| !character.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_is_read_from_the_compilers_answer() {
        let answer =
            "rustc 1.96.0 (ac68faa20 2026-05-25)\nhost: x86_64-unknown-linux-gnu\nLLVM version: 22.1.8";
        assert_eq!(llvm_version(answer), Some(22));
        assert_eq!(llvm_version("rustc 1.96.0"), None);
    }

    #[test]
    fn versions_compare_by_their_numbers() {
        assert!(release("1.85.0+dfsg3-1~deb12u3") < release("1.95"));
        assert!(release("1.96.0+dfsg1-1~deb12u2") >= release("1.95"));
        assert!(release("1.100.0") > release("1.95"));
    }
}
