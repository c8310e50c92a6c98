//! Builds the agent for release.

use std::{
    env, fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{
    setup::{self, Need},
    shell,
};

/// Which ways requests take through the program, by which the compiler decides what to inline and what lies together
/// (profile-guided optimization). `cargo xtask profile` makes it.
pub(crate) const PROFILE: &str = "enforcer/release.profdata";

pub(crate) fn run() -> Result<()> {
    setup::ensure(Need::Build)?;
    let agent = agent()?;
    let size = fs::metadata(&agent)
        .with_context(|| format!("{} is not there after the build", agent.display()))?
        .len();
    println!("{} ({:.1} MB)", agent.display(), size as f64 / 1e6);
    Ok(())
}

/// Builds the agent and says where it is.
pub(crate) fn agent() -> Result<PathBuf> {
    release("enforcer")
}

/// Builds the program of a crate, both of one name, and says where it is.
pub(crate) fn release(name: &str) -> Result<PathBuf> {
    release_of(shell::root(), name, &shell::target())
}

/// The same of the sources in `tree`, built into `folder`.
pub(crate) fn release_of(tree: &Path, name: &str, folder: &Path) -> Result<PathBuf> {
    if let Some(variable) = overriding() {
        println!("   {variable} is set and takes the place of other flags: {PROFILE} is not used");
    }
    let flags = [
        format!("-Cprofile-use={}", profile(tree, folder)?.display()),
        // Of code that has changed since the profile was made, which is compiled without it.
        "-Cllvm-args=-no-pgo-warn-mismatch".to_owned(),
    ];
    build_of(tree, name, folder, &flags)
}

/// The variable that is set and whose flags cargo takes instead of ours, if there is one.
pub(crate) fn overriding() -> Option<&'static str> {
    ["CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS"]
        .into_iter()
        .find(|variable| env::var_os(variable).is_some())
}

/// Builds the program of a crate with `flags` of the compiler into `folder`, and says where it is.
pub(crate) fn build(name: &str, folder: &Path, flags: &[String]) -> Result<PathBuf> {
    build_of(shell::root(), name, folder, flags)
}

fn build_of(tree: &Path, name: &str, folder: &Path, flags: &[String]) -> Result<PathBuf> {
    shell::step(&format!("build {name} for release"), || {
        shell::run(
            shell::cargo(["build", "--release", "--locked", "--package", name])
                .current_dir(tree)
                .arg("--config")
                .arg(format!("build.rustflags = {flags:?}"))
                .arg("--target-dir")
                .arg(folder),
        )
    })?;
    let program = folder.join("release").join(name);
    program
        .canonicalize()
        .with_context(|| format!("cargo built no {}", program.display()))
}

/// The profile, under a name by which cargo notices that it is another.
fn profile(tree: &Path, folder: &Path) -> Result<PathBuf> {
    let file = tree.join(PROFILE);
    let content = fs::read(&file).with_context(|| {
        format!("{PROFILE} cannot be read: it belongs to the sources (`git checkout {PROFILE}`, or make it anew: `cargo xtask profile`)")
    })?;
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    let folder = folder.join("profile");
    let copy = folder.join(format!("{:016x}.profdata", hasher.finish()));
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(&copy, content))
        .with_context(|| format!("{} cannot be written", copy.display()))?;
    // Relative to the folder of each crate, it would be looked for there.
    copy.canonicalize()
        .with_context(|| format!("{} is not there", copy.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How LLVM's indexed profiles begin (`llvm/ProfileData/InstrProfData.inc`).
    const MAGIC: &[u8] = b"\xfflprofi\x81";

    #[test]
    fn the_profile_is_one_of_llvm() {
        let profile = profile(shell::root(), &shell::target()).unwrap();
        assert!(fs::read(&profile).unwrap().starts_with(MAGIC));
        assert!(
            profile.is_absolute(),
            "crates are compiled in folders of their own"
        );
    }
}
