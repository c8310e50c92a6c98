//! What the virtual machines of the tests are made of: an emulator, a static busybox, and kernels.
//!
//! Debian's kernels are unpacked below `target/tools/vm`, never installed. To take a newer build of one,
//! remove its folder there.

use std::{cmp::Ordering, ffi::OsStr, fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use super::debian;
use crate::{
    shell,
    vm::{self, KERNELS, MODULES},
};

/// What the kernels are built for, as the tests are: the emulator runs what this machine compiled.
const ARCHITECTURE: &str = "x86_64";

pub(super) fn find() -> Option<String> {
    let programs = super::program_among(&[vm::EMULATOR, vm::BUSYBOX])?;
    let mut kernels = Vec::new();
    for version in KERNELS {
        kernels.push(vm::release(version)?);
    }
    Some(format!("{programs}; {} in target/tools/vm", kernels.join(", ")))
}

pub(super) fn install() -> Result<()> {
    for version in KERNELS {
        install_with_kernel(version)?;
    }
    Ok(())
}

/// Installs the programs, and unpacks Debian's newest kernel of `version`, as `6.1`.
///
/// # Errors
/// There is none, or no network.
pub(crate) fn install_with_kernel(version: &str) -> Result<()> {
    if std::env::consts::ARCH != ARCHITECTURE {
        bail!(
            "tests on other kernels need an {ARCHITECTURE} machine, and this is {}: leave them out with `cargo xtask test --only STAGE`",
            std::env::consts::ARCH
        );
    }
    if super::program_among(&[vm::EMULATOR, vm::BUSYBOX]).is_none() {
        debian::install(
            &["qemu-system-x86", "busybox-static"],
            "QEMU for x86-64 and a statically linked busybox",
        )?;
    }
    if vm::release(version).is_none() {
        unpack_kernel(version)?;
    }
    Ok(())
}

fn unpack_kernel(version: &str) -> Result<()> {
    if !debian::is_here() {
        bail!("this is not a Debian machine: the tests on other kernels take Debian's kernels, with apt");
    }
    let meta = "linux-image-cloud-amd64";
    debian::refresh(&[meta])?;
    let package = newest_package(version)?;
    let folder = vm::folder(version);
    let unpacked = folder.join("package");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("{} is in the way", folder.display()))?;
    }
    debian::unpack(&package, &unpacked)?;
    let release = package
        .strip_prefix("linux-image-")
        .with_context(|| format!("{package} is no name of a kernel's package"))?;
    let kernel = unpacked.join("boot").join(format!("vmlinuz-{release}"));
    fs::rename(&kernel, folder.join(vm::KERNEL_FILE))
        .with_context(|| format!("{package} has no {}", kernel.display()))?;
    let modules = unpacked.join("lib/modules").join(release).join("kernel");
    for (order, module) in MODULES.iter().enumerate() {
        unpack_module(&modules, module, &vm::module_file(version, order, module))?;
    }
    fs::remove_dir_all(&unpacked)?;
    // Last, so that an unpacking that was broken off counts as missing.
    fs::write(folder.join(vm::RELEASE_FILE), release)?;
    Ok(())
}

/// Copies a module, which newer packages hold compressed.
fn unpack_module(modules: &Path, module: &str, to: &Path) -> Result<()> {
    let plain = modules.join(format!("{module}.ko"));
    if plain.exists() {
        fs::copy(&plain, to)?;
        return Ok(());
    }
    let compressed = modules.join(format!("{module}.ko.xz"));
    let output = Command::new(vm::BUSYBOX)
        .args([OsStr::new("xzcat"), compressed.as_os_str()])
        .output()
        .context("busybox does not start")?;
    if !output.status.success() {
        bail!("the kernel's package has no module {module} that can be read");
    }
    fs::write(to, output.stdout)?;
    Ok(())
}

/// Debian's newest kernel of `version` that is made for virtual machines.
fn newest_package(version: &str) -> Result<String> {
    let pattern = format!(
        r"^linux-image-{}\.[0-9].*-cloud-amd64$",
        version.replace('.', r"\.")
    );
    let packages = shell::output_of("apt-cache", ["search", "--names-only", &pattern]).unwrap_or_default();
    packages
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .max_by(|a, b| by_version(a, b))
        .map(str::to_owned)
        .with_context(|| {
            format!(
                "apt knows no kernel {version} for virtual machines; `apt-cache search --names-only linux-image-.*-cloud-amd64` lists those that there are"
            )
        })
}

/// Compares names by the numbers in them.
fn by_version(a: &str, b: &str) -> Ordering {
    let numbers = |name: &str| -> Vec<u64> {
        name.split(|character: char| !character.is_ascii_digit())
            .filter_map(|number| number.parse().ok())
            .collect()
    };
    numbers(a).cmp(&numbers(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_is_that_of_the_greatest_number() {
        let names = [
            "linux-image-6.12.99+deb12-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.12.101+deb12-cloud-amd64",
        ];
        assert_eq!(names.into_iter().max_by(|a, b| by_version(a, b)), Some(names[1]));
    }
}
