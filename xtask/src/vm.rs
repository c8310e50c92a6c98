//! Tests on other kernels than this machine's: Debian's, in QEMU, without any right on this machine.
//!
//! A machine boots in seconds with what it needs in memory, runs the tests as root, one at a time, and
//! switches itself off. It is emulated, not accelerated, so tests of speed are left out. All machines of a
//! run are on at once.

mod archive;
mod image;
mod machine;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{count::Count, shell};

/// The kernels that every run of the tests boots: Debian's stable one, which has no TCX, and the newest.
pub(crate) const KERNELS: [&str; 2] = ["6.1", "6.12"];

/// Modules that the tests need and the kernels have not built in, those first that others need.
pub(crate) const MODULES: [&str; 9] = [
    "drivers/net/veth",
    "net/sched/sch_ingress",
    "net/sched/cls_bpf",
    "drivers/net/tun",
    // Devices for VLANs.
    "net/llc/llc",
    "net/802/stp",
    "net/802/garp",
    "net/802/mrp",
    "net/8021q/8021q",
];

/// Packets against the stack of a machine: in a run with full counts, and in others, where they are few because
/// everything is emulated.
pub(crate) const FULL_PACKETS: u32 = 100_000;
const PACKETS: u32 = 10_000;

/// How much of the suites runs.
pub(crate) struct Extent {
    /// Those that hurry too.
    pub(crate) hurried: bool,
    /// With full counts.
    pub(crate) full: bool,
}

impl Extent {
    const fn packets(&self) -> u32 {
        if self.full { FULL_PACKETS } else { PACKETS }
    }
}

/// How long a machine may be on, and how long with full counts.
const PATIENCE: Duration = Duration::from_secs(900);
const FULL_PATIENCE: Duration = Duration::from_secs(3 * 3600);

/// The programs that set-up installs.
pub(crate) const EMULATOR: &str = "qemu-system-x86_64";
pub(crate) const BUSYBOX: &str = "busybox";

/// In a kernel's folder: the kernel, and its release.
pub(crate) const KERNEL_FILE: &str = "vmlinuz";
pub(crate) const RELEASE_FILE: &str = "release";

/// One of the lab's test programs, and with which arguments it runs.
#[derive(Clone, Copy)]
struct Suite {
    name: &'static str,
    arguments: &'static [&'static str],
    /// Its agents must be ready within a time that a busy machine's emulation may not keep: it runs where
    /// kernels are asked for, and not in every run.
    hurries: bool,
}

const SUITES: [Suite; 6] = [
    // What a packet costs here says nothing. The rates, the random frames and the random sets of policies are the same
    // on every kernel, and take long where everything is emulated.
    Suite {
        name: "kernel",
        arguments: &[
            "--skip",
            "costs::costs",
            "--skip",
            "rates",
            "--skip",
            "random",
            "--skip",
            "trials",
            "--skip",
            "recents",
            "--skip",
            "egress_replies::a_flood",
        ],
        hurries: false,
    },
    // What this kernel's stack makes of random packets.
    Suite {
        name: "linux",
        arguments: &[],
        hurries: false,
    },
    Suite {
        name: "hooks",
        arguments: &[],
        hurries: false,
    },
    // Egress by TCX where there is TCX, else by clsact.
    Suite {
        name: "pods",
        arguments: &["--skip", "limits"],
        hurries: true,
    },
    // What is pinned, and the filters that need no pin.
    Suite {
        name: "restart",
        arguments: &[],
        hurries: true,
    },
    // Those that need no speed and do not ask the kernel for TCX themselves. Not limits::a_deny_list: on 6.1 one
    // datagram of fifty of an allowed source does not arrive, and it is not known why.
    Suite {
        name: "agent",
        arguments: &[
            "denial::a_source_that_keeps_failing",
            "reload::kernel_and_gateway",
            "verified::connections_are_verified",
        ],
        hurries: true,
    },
];

/// Where a kernel is kept.
pub(crate) fn folder(version: &str) -> PathBuf {
    shell::tools().join("vm").join(version)
}

/// The file of a module in a kernel's folder: its name says when it is loaded.
pub(crate) fn module_file(version: &str, order: usize, module: &str) -> PathBuf {
    folder(version).join(format!("{order}-{}.ko", module.replace('/', "-")))
}

/// The release of the kernel that is kept for `version`, if there is one with all modules.
pub(crate) fn release(version: &str) -> Option<String> {
    let mut modules = MODULES.iter().enumerate();
    if !modules.all(|(order, module)| module_file(version, order, module).exists()) {
        return None;
    }
    fs::read_to_string(folder(version).join(RELEASE_FILE)).ok()
}

/// Runs the suites on each of `versions`. All must be built already, as `list` of cargo says; the answer is how each
/// kernel fared.
pub(crate) fn run(versions: &[String], extent: &Extent, mut list: Command) -> Result<String> {
    list.args(["--no-run", "--message-format=json-render-diagnostics"]);
    println!("   {}", shell::shown(&list));
    let mut built = Vec::new();
    shell::run_quietly(&mut list, |line| built.extend(executable(line)))?;
    let suites: Vec<(Suite, PathBuf)> = SUITES
        .into_iter()
        .filter(|suite| extent.hurried || !suite.hurries)
        .map(|suite| {
            let program = built.iter().find(|(name, _)| name == suite.name);
            let (_, program) = program.with_context(|| format!("cargo built no test {}", suite.name))?;
            Ok((suite, program.clone()))
        })
        .collect::<Result<_>>()?;
    // Side by side: a machine's tests run one at a time, so that one machine keeps one processor busy.
    let fared = thread::scope(|scope| {
        let machines: Vec<_> = versions
            .iter()
            .map(|version| scope.spawn(|| on(version, extent, &suites)))
            .collect();
        machines
            .into_iter()
            .map(|machine| {
                machine
                    .join()
                    .unwrap_or_else(|_| bail!("the thread of a machine panicked"))
            })
            .collect::<Vec<_>>()
    });
    let fared: Vec<String> = versions
        .iter()
        .zip(fared)
        .map(|(version, fared)| {
            fared.with_context(|| {
                format!("on Linux {version}; to run it alone: `cargo xtask test --vm {version}`")
            })
        })
        .collect::<Result<_>>()?;
    Ok(fared.join("; "))
}

/// Runs the suites on one kernel.
fn on(version: &str, extent: &Extent, suites: &[(Suite, PathBuf)]) -> Result<String> {
    let folder = folder(version);
    let release =
        release(version).with_context(|| format!("Linux {version} is missing: run `cargo xtask setup`"))?;
    let started = Instant::now();
    let agent = shell::target().join("debug/enforcer");
    let image = folder.join("image");
    image::write(&image, &folder, &agent, (suites, extent))?;
    println!("   Linux {release}");
    let mut report = Report::default();
    machine::run(
        &folder.join(KERNEL_FILE),
        &image,
        &folder.join("console.log"),
        if extent.full { FULL_PATIENCE } else { PATIENCE },
        |line| {
            println!("   {version} | {line}");
            report.add(line);
        },
    )?;
    fs::remove_file(&image)?;
    let count = report.verdict(
        suites.iter().map(|(suite, _)| suite.name),
        &folder.join("console.log"),
    )?;
    Ok(format!(
        "Linux {version}: {count} in {}",
        shell::seconds(started.elapsed())
    ))
}

/// The test program in one of cargo's messages, and its name.
fn executable(message: &str) -> Option<(String, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    if message["target"]["kind"][0] != "test" {
        return None;
    }
    let name = message["target"]["name"].as_str()?;
    let program = message["executable"].as_str()?;
    Some((name.to_owned(), program.into()))
}

/// What a machine's lines say.
#[derive(Debug, Default)]
struct Report {
    count: Count,
    passed: Vec<String>,
    failed: Vec<String>,
    trouble: Vec<String>,
    ended: bool,
}

impl Report {
    fn add(&mut self, line: &str) {
        self.count.add(line);
        let Some(said) = line.strip_prefix("vm: ") else {
            return;
        };
        let words: Vec<&str> = said.split_whitespace().collect();
        match words[..] {
            ["exit", suite, "0"] => self.passed.push(suite.to_owned()),
            ["exit", suite, _] => self.failed.push(suite.to_owned()),
            ["module", ..] => self.trouble.push(said.to_owned()),
            ["end"] => self.ended = true,
            _ => {}
        }
    }

    /// The count, if every suite has passed and the machine came to its end.
    fn verdict<'a>(self, suites: impl Iterator<Item = &'a str>, console: &Path) -> Result<Count> {
        if !self.failed.is_empty() {
            bail!("failed: {}", self.failed.join(", "));
        }
        if !self.trouble.is_empty() {
            bail!("{}", self.trouble.join("; "));
        }
        let missing: Vec<&str> = suites
            .filter(|suite| !self.passed.iter().any(|passed| passed == suite))
            .collect();
        if !missing.is_empty() || !self.ended {
            bail!(
                "the machine stopped before it was done (not run: {}); what its kernel says is in {}",
                missing.join(", "),
                console.display()
            );
        }
        if self.count.passed == 0 {
            bail!("no test ran");
        }
        Ok(self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESULT: &str =
        "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.02s";

    fn verdict(lines: &[&str]) -> Result<Count> {
        let mut report = Report::default();
        for line in lines {
            report.add(line);
        }
        report.verdict(["a", "b"].into_iter(), Path::new("console.log"))
    }

    #[test]
    fn a_machine_passes_only_if_every_suite_has_and_it_came_to_its_end() {
        let all = [RESULT, "vm: exit a 0", RESULT, "vm: exit b 0", "vm: end"];
        assert_eq!(verdict(&all).unwrap().passed, 4);
        assert!(verdict(&all[..4]).is_err());
        assert!(verdict(&[RESULT, "vm: exit a 0", "vm: end"]).is_err());
        assert!(verdict(&["vm: exit a 0", "vm: exit b 0", "vm: end"]).is_err());
        assert!(verdict(&[RESULT, "vm: exit a 0", "vm: exit b 101", "vm: end"]).is_err());
        let module = [
            "vm: module /modules/0-veth.ko failed",
            RESULT,
            "vm: exit a 0",
            "vm: exit b 0",
            "vm: end",
        ];
        assert!(verdict(&module).is_err());
    }

    #[test]
    fn a_test_program_is_read_from_cargos_message() {
        let message = r#"{"reason":"compiler-artifact","target":{"kind":["test"],"name":"kernel"},"executable":"/t/kernel-1"}"#;
        assert_eq!(
            executable(message),
            Some(("kernel".to_owned(), "/t/kernel-1".into()))
        );
        assert_eq!(executable(&message.replace("[\"test\"]", "[\"bin\"]")), None);
        assert_eq!(executable("   Compiling"), None);
    }
}
