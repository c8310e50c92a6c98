//! What a virtual machine begins with, all of it in memory: busybox, the kernel's modules, the tests and the
//! agent as this machine compiled them, the network programs, and the libraries that these need.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{BUSYBOX, Extent, Suite, archive::Archive};
use crate::shell;

const INIT: &str = include_str!("init.sh");

/// Folders that init mounts something on, or programs expect.
const FOLDERS: [&str; 6] = ["proc", "sys", "dev", "tmp", "run", "var"];

/// What the lab calls, from this machine.
const PROGRAMS: [&str; 2] = ["ip", "tc"];

/// Writes the image to `file`: with the modules in `modules`, to run `suites` to that extent.
pub(super) fn write(
    file: &Path,
    modules: &Path,
    agent: &Path,
    (suites, extent): (&[(Suite, PathBuf)], &Extent),
) -> Result<()> {
    let mut image = Image {
        archive: Archive::create(file)?,
        libraries: BTreeSet::new(),
    };
    for folder in FOLDERS {
        image.archive.folder(folder)?;
    }
    image.archive.file("init", INIT.as_bytes())?;
    image.archive.file("tests", script(suites, extent).as_bytes())?;
    let busybox = installed(BUSYBOX)?;
    image.archive.file("bin/busybox", &read(&busybox)?)?;
    for entry in fs::read_dir(modules)? {
        let module = entry?.path();
        if module.extension().is_some_and(|extension| extension == "ko") {
            let name = module.file_name().unwrap_or_default();
            let name = format!("modules/{}", name.display());
            image.archive.file(&name, &read(&module)?)?;
        }
    }
    for name in PROGRAMS {
        let program = installed(name)?;
        image.libraries_of(&program)?;
        image
            .archive
            .file(&format!("usr/sbin/{name}"), &read(&program)?)?;
    }
    let scratch = file.with_extension("stripped");
    image.ours("enforcer", agent, &scratch)?;
    for (suite, program) in suites {
        image.ours(&in_image(suite), program, &scratch)?;
    }
    for library in &image.libraries {
        image
            .archive
            .file(&library.display().to_string(), &read(library)?)?;
    }
    image.archive.finish()?;
    Ok(())
}

/// What init runs: each suite, then a line that says how it ended.
fn script(suites: &[(Suite, PathBuf)], extent: &Extent) -> String {
    let mut script = format!("export ENFORCER_PACKETS={}\n", extent.packets());
    script.extend(suites.iter().map(|(suite, _)| {
        let program = in_image(suite);
        let arguments = suite.arguments.join(" ");
        let name = suite.name;
        format!(
            "echo \"vm: begin {name}\"\n{program} --test-threads=1 --color=never {arguments}\necho \"vm: exit {name} $?\"\n"
        )
    }));
    script
}

fn in_image(suite: &Suite) -> String {
    format!("tests-{}", suite.name)
}

struct Image {
    archive: Archive<std::io::BufWriter<fs::File>>,
    libraries: BTreeSet<PathBuf>,
}

impl Image {
    /// Adds a program of the workspace, without the debug information, which is most of it.
    fn ours(&mut self, name: &str, program: &Path, scratch: &Path) -> Result<()> {
        shell::run(
            Command::new("strip")
                .arg("--strip-debug")
                .arg("-o")
                .args([scratch, program]),
        )?;
        self.archive.file(&format!("usr/bin/{name}"), &read(scratch)?)?;
        fs::remove_file(scratch)?;
        self.libraries_of(program)
    }

    /// Notes the libraries that a program is linked with, the dynamic linker among them.
    fn libraries_of(&mut self, program: &Path) -> Result<()> {
        let Some(listing) = shell::output_of("ldd", [program]) else {
            bail!("`ldd {}` failed: is it dynamically linked?", program.display());
        };
        self.libraries.extend(libraries(&listing));
        Ok(())
    }
}

/// The files in what `ldd` prints: the first word of a line that is a path.
fn libraries(listing: &str) -> impl Iterator<Item = PathBuf> {
    listing
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
}

fn installed(name: &str) -> Result<PathBuf> {
    shell::program(name).with_context(|| format!("there is no `{name}`: run `cargo xtask setup`"))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("{} could not be read", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_what_ldd_prints() {
        let listing = "\tlinux-vdso.so.1 (0x00007f18c9fc7000)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f18c7d3e000)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f18c9fc9000)\n";
        let files: Vec<_> = libraries(listing).collect();
        assert_eq!(
            files,
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from)
        );
    }
}
