//! Where the profile comes from that releases are compiled with. It steers what the compiler makes of the sources, and nobody
//! can read it: so it says beside itself what it is, and a release is not packed with another.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{build::PROFILE, shell};

/// Beside the profile.
pub(crate) const ORIGIN: &str = "enforcer/release.profdata.json";

/// What stands for a revision that nobody wrote down when the profile was made.
const UNRECORDED: &str = "unrecorded";

/// Writes where the profile comes from, which was made just now from these sources by this compiler.
pub(crate) fn write() -> Result<()> {
    let revision = shell::output_of(
        "git",
        ["describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"],
    );
    let compiler = shell::output_of("rustc", ["--version", "--verbose"]);
    let compiler = compiler.context("`rustc --version --verbose` says nothing")?;
    let origin = json!({
        "sha256": digest(&shell::root().join(PROFILE))?,
        "revision": revision.context("the sources have no revision: run this in a git checkout")?,
        "toolchain": compiler.lines().collect::<Vec<_>>(),
        "command": "cargo xtask profile",
    });
    let file = shell::root().join(ORIGIN);
    fs::write(&file, format!("{origin:#}\n")).with_context(|| format!("{} cannot be written", file.display()))
}

/// Checks that the profile is the one whose origin is written down.
pub(crate) fn check() -> Result<()> {
    let file = shell::root().join(ORIGIN);
    let text = fs::read_to_string(&file).with_context(|| {
        format!(
            "{} cannot be read, so nobody knows where {PROFILE} comes from: run `cargo xtask profile`",
            file.display()
        )
    })?;
    let origin: Value =
        serde_json::from_str(&text).with_context(|| format!("{} is no JSON", file.display()))?;
    let revision = compare(&origin, &digest(&shell::root().join(PROFILE))?)?;
    if revision == UNRECORDED {
        println!(
            "   {PROFILE} was made before origins were written down: `cargo xtask dist --renew-profile` makes one of these sources"
        );
    } else if revision.ends_with("-dirty") {
        println!("   {PROFILE} was made of sources that were changed and not committed ({revision})");
    }
    Ok(())
}

/// The revision that the profile with this digest is made of.
fn compare<'a>(origin: &'a Value, digest: &str) -> Result<&'a str> {
    let text = |name: &str| {
        let value = origin[name].as_str().filter(|text| !text.is_empty());
        value.with_context(|| format!("{ORIGIN} says no `{name}`: run `cargo xtask profile`"))
    };
    let recorded = text("sha256")?;
    if recorded != digest {
        bail!(
            "{PROFILE} is not the one that {ORIGIN} is about ({digest}, not {recorded}): somebody has replaced it. \
             `cargo xtask profile` makes both anew"
        );
    }
    ensure!(
        origin["toolchain"].is_array(),
        "{ORIGIN} says no `toolchain`: run `cargo xtask profile`"
    );
    text("revision")
}

fn digest(file: &Path) -> Result<String> {
    let output = Command::new("sha256sum")
        .arg("--")
        .arg(file)
        .output()
        .context("`sha256sum` could not be started")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let digest = text.split_whitespace().next().filter(|_| output.status.success());
    digest
        .map(str::to_owned)
        .with_context(|| format!("{} cannot be read", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l11_the_profile_is_the_one_whose_origin_is_written_down() {
        check().unwrap();
    }

    #[test]
    fn l11_another_profile_than_the_recorded_one_is_refused() {
        let origin = json!({"sha256": "aa", "revision": "1234", "toolchain": ["rustc"]});
        assert_eq!(compare(&origin, "aa").unwrap(), "1234");
        assert!(
            compare(&origin, "ab")
                .unwrap_err()
                .to_string()
                .contains("somebody has replaced it")
        );
        for missing in ["sha256", "revision", "toolchain"] {
            let mut origin = origin.clone();
            origin.as_object_mut().unwrap().remove(missing);
            let error = compare(&origin, "aa").unwrap_err().to_string();
            assert!(error.contains(missing), "{error}");
        }
    }
}
