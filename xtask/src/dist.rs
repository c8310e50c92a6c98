//! Packs a release.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build,
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

pub(crate) fn run() -> Result<()> {
    setup::ensure(Need::Build)?;
    let agent = build::agent()?;
    let name = format!("enforcer-{}-{}", env!("CARGO_PKG_VERSION"), env::consts::ARCH);
    let folder = shell::target().join("dist");
    let archive = shell::step("pack target/dist", || pack(&agent, &folder, &name))?;
    println!("{}", archive.display());
    Ok(())
}

/// Makes `NAME.tar.gz` and `NAME.tar.gz.sha256` in a folder.
fn pack(agent: &Path, folder: &Path, name: &str) -> Result<PathBuf> {
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
    checksums(&contents)?;
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
    fs::write(folder.join(format!("{archive}.sha256")), sum)?;
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

/// Writes `SHA256SUMS`: of every file in a folder, for `sha256sum --check`.
fn checksums(folder: &Path) -> Result<()> {
    let mut names = Vec::new();
    list(folder, Path::new(""), &mut names)?;
    names.sort();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let sums = output_in(folder, "sha256sum", &names)?;
    fs::write(folder.join("SHA256SUMS"), sums).context("the checksums could not be written")
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
}
