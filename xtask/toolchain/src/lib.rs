//! Finds the toolchain that builds the kernel programs, and builds them from a build script.
//!
//! Two kinds of machine are served. Debian packages a compiler with the BPF target (`rustc-web`,
//! `rust-web-src`), which `cargo xtask setup` links into rustup as [`LINKED`]. Elsewhere rustup's
//! nightly with `rust-src` does. Both need `bpf-linker`.
#![deny(unsafe_code)]

mod line_info;

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// The name under which Debian's compiler is linked into rustup.
pub const LINKED: &str = "enforcer-bpf";

/// Where Debian's compiler keeps the standard library's source.
const DEBIAN_SYSROOT: &str = "/usr";

/// A toolchain that can build for `bpfel-unknown-none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// Debian's compiler, linked into rustup as [`LINKED`].
    Debian,
    /// rustup's nightly with the `rust-src` component.
    Nightly,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Debian => "Debian's rustc-web, linked as rustup toolchain `enforcer-bpf`",
            Self::Nightly => "rustup's nightly with rust-src",
        })
    }
}

/// The toolchain that is installed, if any: Debian's link first, for it is what set-up made.
#[must_use]
pub fn installed() -> Option<Toolchain> {
    [(LINKED, Toolchain::Debian), ("nightly", Toolchain::Nightly)]
        .into_iter()
        .find_map(|(name, toolchain)| has_rust_src(&sysroot(name)?).then_some(toolchain))
}

/// Whether Debian's compiler and library source are there to be linked.
#[must_use]
pub fn debian_compiler_present() -> bool {
    Path::new("/usr/bin/rustc").exists() && has_rust_src(Path::new(DEBIAN_SYSROOT))
}

/// Where `bpf-linker` is, if it is on the search path or among cargo's installed programs.
#[must_use]
pub fn bpf_linker() -> Option<PathBuf> {
    search_path()
        .into_iter()
        .map(|dir| dir.join("bpf-linker"))
        .find(|file| file.is_file())
}

/// Builds every program of `package`, whose folder is `root_dir`, into `OUT_DIR`, anew whenever it or one
/// of the folders that it depends on has changed. For build scripts. Those of a release have no line information.
///
/// # Errors
/// One sentence that names what is missing and the command that installs it, or the compiler's error.
pub fn build(package: &str, root_dir: &str, dependencies: &[&str]) -> Result<()> {
    for folder in dependencies {
        println!("cargo:rerun-if-changed={folder}");
    }
    let Some(toolchain) = installed() else {
        bail!(
            "the kernel programs need a BPF toolchain (rustup toolchain `{LINKED}`, or nightly with rust-src) and there is none: run `cargo xtask setup`"
        );
    };
    if bpf_linker().is_none() {
        bail!("the kernel programs need bpf-linker and it is not installed: run `cargo xtask setup`");
    }
    let path = env::join_paths(search_path()).context("PATH holds a separator")?;
    // SAFETY: a build script is single-threaded here; only the compiler started below reads these.
    #[expect(unsafe_code, reason = "nothing else sets variables for aya-build")]
    unsafe {
        env::set_var("PATH", path);
        // What the inner cargo prints reaches people as warnings: let only real ones through.
        env::set_var("CARGO_TERM_QUIET", "true");
        if toolchain == Toolchain::Debian {
            // Debian's compiler is a stable one; aya-ebpf uses core's unstable intrinsics.
            env::set_var("RUSTC_BOOTSTRAP", "1");
        }
    }
    let name = match toolchain {
        Toolchain::Debian => aya_build::Toolchain::Custom(LINKED),
        Toolchain::Nightly => aya_build::Toolchain::Nightly,
    };
    let programs = aya_build::Package {
        name: package,
        root_dir,
        ..Default::default()
    };
    aya_build::build_ebpf([programs], name)
        .with_context(|| format!("the kernel programs did not build with {toolchain}"))?;
    if env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        let file = Path::new(&env::var_os("OUT_DIR").context("this is no build script")?).join(package);
        let about = || file.display().to_string();
        let mut object = fs::read(&file).with_context(about)?;
        line_info::remove(&mut object).with_context(about)?;
        fs::write(&file, object).with_context(about)?;
    }
    Ok(())
}

fn search_path() -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = env::var_os("PATH")
        .map(|path| env::split_paths(&path).collect())
        .unwrap_or_default();
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    dirs.extend(cargo_home.map(|home| home.join("bin")));
    dirs
}

fn sysroot(toolchain: &str) -> Option<PathBuf> {
    let output = Command::new("rustup")
        .args(["run", toolchain, "rustc", "--print", "sysroot"])
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim().to_owned()))
}

fn has_rust_src(sysroot: &Path) -> bool {
    sysroot
        .join("lib/rustlib/src/rust/library/core/src/lib.rs")
        .exists()
}
