//! Debian's packages.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// Whether this is Debian or one of its descendants: whether apt serves it.
pub(super) fn is_here() -> bool {
    shell::program("apt-get").is_some() && Path::new("/var/lib/dpkg/status").exists()
}

/// Installs packages. `what` is what they are wanted for, for machines that have no apt.
pub(super) fn install(packages: &[&str], what: &str) -> Result<()> {
    if !is_here() {
        bail!(
            "this is not a Debian machine: install {what} with its package manager, then run `cargo xtask setup`"
        );
    }
    refresh(packages)?;
    println!("   apt-get install {}", packages.join(" "));
    let mut command = apt_get()?;
    command
        .args(["install", "--yes", "--quiet", "--no-install-recommends"])
        .args(packages);
    shell::run(&mut command).context(
        "apt-get could not install; its message is above (no network? another apt running?): mend that, then run `cargo xtask setup`",
    )
}

/// The version that apt would install.
pub(super) fn candidate(package: &str) -> Option<String> {
    let policy = shell::output_of("apt-cache", ["policy", package])?;
    let version = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate:"))?
        .trim();
    (version != "(none)").then(|| version.to_owned())
}

/// Fetches the lists of packages, unless apt already knows every one of `packages`.
pub(super) fn refresh(packages: &[&str]) -> Result<()> {
    if packages.iter().all(|package| candidate(package).is_some()) {
        return Ok(());
    }
    println!("   apt-get update");
    let mut command = apt_get()?;
    command.args(["update", "--quiet"]);
    shell::run(&mut command)
        .context("apt-get could not fetch its lists; its message is above (no network?): mend that, then run `cargo xtask setup`")
}

/// Unpacks a package into a folder without installing it: nothing is configured, no service starts.
pub(super) fn unpack(package: &str, folder: &Path) -> Result<()> {
    refresh(&[package])?;
    fs::create_dir_all(folder).with_context(|| format!("{} could not be made", folder.display()))?;
    println!("   apt-get download {package}");
    shell::run(
        Command::new("apt-get")
            // As who runs this: apt's own user cannot write here.
            .args(["download", "--quiet", "-o", "APT::Sandbox::User=", package])
            .current_dir(folder),
    )
    .with_context(|| format!("{package} could not be downloaded (no network?)"))?;
    for entry in fs::read_dir(folder)? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            shell::run(Command::new("dpkg-deb").arg("--extract").arg(&file).arg(folder))?;
            fs::remove_file(&file)?;
        }
    }
    Ok(())
}

/// apt-get that asks nothing and waits for another apt to end.
fn apt_get() -> Result<Command> {
    let mut command = shell::privileged("env")?;
    command.args([
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "-o",
        "DPkg::Lock::Timeout=120",
    ]);
    Ok(command)
}
