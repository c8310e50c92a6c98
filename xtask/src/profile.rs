//! Makes the profile that releases are compiled with: builds agent and lab so that they count which way they go, has the
//! lab's requests go through the agent, and merges what was counted.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::{self, PROFILE},
    origin,
    setup::{self, Need},
    shell,
};

/// One round of each kind of request, with connections that are idle and slow beside them. The bare forwarder, which the
/// agent is compared with, is compiled by the same rule.
const REQUESTS: [&str; 10] = [
    "bench",
    "gateway",
    "--only",
    "floor,enforcer",
    "--rounds",
    "1",
    "--idle",
    "500",
    "--slow",
    "100",
];

pub(crate) fn run() -> Result<()> {
    shell::require_root(
        "the requests go through network namespaces and kernel programs",
        "profile",
    )?;
    if let Some(variable) = build::overriding() {
        bail!("{variable} is set and takes the place of the flags that have programs count: unset it");
    }
    setup::ensure(Need::Lab)?;
    let merger = setup::ensure_profiler()?;
    let folder = shell::target().join("profile/counting");
    fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    // Programs run in folders of their own.
    let counts = folder.canonicalize()?.join("counts");
    let flags = [format!("-Cprofile-generate={}", counts.display())];
    build::build("enforcer", &folder, &flags)?;
    let lab = build::build("lab", &folder, &flags)?;
    // Macros and build scripts have counted too.
    if counts.exists() {
        fs::remove_dir_all(&counts).with_context(|| format!("{} cannot be removed", counts.display()))?;
    }
    shell::step("count which ways requests take", || {
        // The agent is the one beside the lab.
        shell::run(Command::new(&lab).args(REQUESTS).env_remove("ENFORCER_BIN"))
    })?;
    if !counts.exists() {
        bail!("nothing was counted: does a configuration of cargo's set flags of its own for this machine?");
    }
    shell::step(&format!("merge into {PROFILE}"), || merge(&merger, &counts))?;
    origin::write()
}

fn merge(merger: &Path, counts: &Path) -> Result<()> {
    let profile = shell::root().join(PROFILE);
    shell::run(
        Command::new(merger)
            // What was never run says nothing, and is most of it.
            .args(["merge", "--sparse", "--output"])
            .args([&profile, counts]),
    )
    .context(
        "the counts are of another LLVM than the program that merges them: see `rustc --version --verbose`",
    )
}
