//! Packs a release.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    build, origin, profile, sbom,
    setup::{self, Need},
    shell,
};

/// What a release carries beside the agent.
const FILES: [&str; 6] = [
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "docs",
    "policies",
    "deploy",
];

/// The file of a release that is signed, and that has the checksums of all others.
const SUMS: &str = "SHA256SUMS";

/// What signatures are for, so that one of another purpose is none of a release (`ssh-keygen -Y`).
const NAMESPACE: &str = "enforcer-release";

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Signs the checksums with this private key of SSH's (`ssh-keygen -t ed25519`), or the public one of a key that
    /// ssh-agent has
    #[arg(long, value_name = "KEY")]
    sign: Option<PathBuf>,
    /// Makes the profile anew that the agent is compiled with, from these sources (a quarter of an hour, root)
    #[arg(long)]
    renew_profile: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::ensure(Need::Build)?;
    if let Some(key) = &options.sign {
        // Before all the work.
        fs::metadata(key).with_context(|| format!("the key {} cannot be read", key.display()))?;
    }
    if options.renew_profile {
        profile::run()?;
    }
    shell::step("check where the profile comes from", origin::check)?;
    let agent = build::agent()?;
    let name = format!("enforcer-{}-{}", env!("CARGO_PKG_VERSION"), env::consts::ARCH);
    let folder = shell::target().join("dist");
    let key = options.sign.as_deref();
    let archive = shell::step("pack target/dist", || pack(&agent, &folder, &name, key))?;
    println!("{}", archive.display());
    if key.is_none() {
        println!("   the checksums are not signed: `--sign KEY` does");
    }
    Ok(())
}

/// Makes `NAME.tar.gz` and `NAME.tar.gz.sha256` in a folder, with their signature if there is a key.
fn pack(agent: &Path, folder: &Path, name: &str, key: Option<&Path>) -> Result<PathBuf> {
    let contents = folder.join(name);
    if contents.exists() {
        fs::remove_dir_all(&contents)?;
    }
    fs::create_dir_all(&contents).with_context(|| format!("{} could not be made", contents.display()))?;
    copy(agent, &contents)?;
    for file in FILES {
        let source = shell::root().join(file);
        if !source.exists() {
            bail!("{file} is missing: a release must carry it");
        }
        copy(&source, &contents)?;
    }
    let target = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    fs::write(contents.join("sbom.cdx.json"), sbom::bill(&target)?)
        .context("the bill of materials could not be written")?;
    checksums(&contents)?;
    if let Some(key) = key {
        sign(&contents.join(SUMS), key)?;
    }
    let archive = format!("{name}.tar.gz");
    shell::run(
        Command::new("tar")
            .args([
                "--create",
                "--gzip",
                "--sort=name",
                "--owner=0",
                "--group=0",
                "--numeric-owner",
            ])
            .arg(format!("--mtime=@{}", source_date()))
            .args(["--file", &archive, name])
            .current_dir(folder),
    )?;
    let sum = output_in(folder, "sha256sum", &[&archive])?;
    let sums = folder.join(format!("{archive}.sha256"));
    fs::write(&sums, sum)?;
    if let Some(key) = key {
        sign(&sums, key)?;
    }
    Ok(folder.join(archive))
}

fn copy(source: &Path, folder: &Path) -> Result<()> {
    shell::run(
        Command::new("cp")
            .args(["--recursive", "--"])
            .arg(source)
            .arg(folder),
    )
}

/// Writes `FILE.sig`, for `ssh-keygen -Y verify`.
fn sign(file: &Path, key: &Path) -> Result<()> {
    let signature = PathBuf::from(format!("{}.sig", file.display()));
    // The program asks before it overwrites one.
    if signature.exists() {
        fs::remove_file(&signature)?;
    }
    shell::run(
        Command::new("ssh-keygen")
            .args(["-q", "-Y", "sign", "-n", NAMESPACE, "-f"])
            .args([key, file]),
    )
    .with_context(|| format!("{} is not signed", file.display()))
}

/// Writes `SHA256SUMS`: of every file in a folder, for `sha256sum --check`.
fn checksums(folder: &Path) -> Result<()> {
    let mut names = Vec::new();
    list(folder, Path::new(""), &mut names)?;
    names.sort();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let sums = output_in(folder, "sha256sum", &names)?;
    fs::write(folder.join(SUMS), sums).context("the checksums could not be written")
}

fn list(folder: &Path, below: &Path, names: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder.join(below))? {
        let entry = entry?;
        let name = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            list(folder, &name, names)?;
        } else {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

fn output_in(folder: &Path, program: &str, arguments: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .output()
        .with_context(|| format!("`{program}` could not be started"))?;
    if !output.status.success() {
        bail!(
            "`{program}` failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(output.stdout)
}

/// The time that files carry in the archive: the last commit's, so that one commit makes one archive.
fn source_date() -> String {
    env::var("SOURCE_DATE_EPOCH")
        .ok()
        .or_else(|| shell::output_of("git", ["log", "-1", "--format=%ct"]))
        .unwrap_or_else(|| "0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_cover_every_file_and_verify() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("policies")).unwrap();
        fs::write(folder.path().join("enforcer"), "program").unwrap();
        fs::write(folder.path().join("policies/a.yaml"), "policy").unwrap();
        checksums(folder.path()).unwrap();
        let sums = fs::read_to_string(folder.path().join("SHA256SUMS")).unwrap();
        assert_eq!(sums.lines().count(), 2, "{sums}");
        output_in(folder.path(), "sha256sum", &["--check", "--strict", "SHA256SUMS"]).unwrap();
    }

    #[test]
    fn l11_a_signed_list_of_checksums_is_verified_as_the_guide_says_and_a_changed_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (key, sums) = (folder.path().join("key"), folder.path().join(SUMS));
        let made = ["-q", "-t", "ed25519", "-N", "", "-C", "release", "-f", "key"];
        output_in(folder.path(), "ssh-keygen", &made).unwrap();
        fs::write(&sums, "aa  enforcer\n").unwrap();
        sign(&sums, &key).unwrap();
        sign(&sums, &key).unwrap();
        let public = fs::read_to_string(folder.path().join("key.pub")).unwrap();
        fs::write(folder.path().join("signers"), format!("release {public}")).unwrap();
        let verifies = |namespace: &str| {
            let verified = Command::new("ssh-keygen")
                .args([
                    "-Y",
                    "verify",
                    "-f",
                    "signers",
                    "-I",
                    "release",
                    "-n",
                    namespace,
                    "-s",
                    "SHA256SUMS.sig",
                ])
                .stdin(fs::File::open(&sums).unwrap())
                .current_dir(folder.path())
                .output();
            verified.unwrap().status.success()
        };
        assert!(verifies(NAMESPACE) && !verifies("file"));
        fs::write(&sums, "ab  enforcer\n").unwrap();
        assert!(!verifies(NAMESPACE));
    }
}
