//! Makes a machine ready: finds what is there, installs what is missing.
//!
//! Each part is looked for by what it can do, never by how it got there, so that a machine that
//! somebody set up another way is left alone.

mod checks;
mod debian;
mod kernel;
mod machines;
mod profiler;
mod proxies;

use std::{path::PathBuf, time::Instant};

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// How much of the set-up a command needs. Each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// Compilers: for the agent, and for the kernel programs.
    Build,
    /// What the network lab calls.
    Lab,
    /// Linters, schemas, and what else only tests use.
    Test,
}

/// One thing that a machine needs.
struct Part {
    name: &'static str,
    need: Need,
    /// What is there, for people to read; nothing if it is missing or does not work.
    find: fn() -> Option<String>,
    /// Installs it.
    install: fn() -> Result<()>,
}

/// In the order in which they are installed: the linker needs the compiler.
const PARTS: [Part; 9] = [
    Part {
        name: "C compiler",
        need: Need::Build,
        find: || program_among(&["cc"]),
        install: || debian::install(&["gcc", "libc6-dev"], "a C compiler (`cc`)"),
    },
    Part {
        name: "BPF toolchain",
        need: Need::Build,
        find: kernel::find_toolchain,
        install: kernel::install_toolchain,
    },
    Part {
        name: "bpf-linker",
        need: Need::Build,
        find: kernel::find_linker,
        install: kernel::install_linker,
    },
    Part {
        name: "network programs",
        need: Need::Lab,
        find: || program_among(&["ip", "tc", "curl"]),
        install: || debian::install(&["iproute2", "curl", "ca-certificates"], "`ip`, `tc` and `curl`"),
    },
    Part {
        name: "rustfmt, clippy",
        need: Need::Test,
        find: checks::find_lints,
        install: checks::install_lints,
    },
    Part {
        name: "deployment checks",
        need: Need::Test,
        find: checks::find_deployment_checks,
        install: checks::install_deployment_checks,
    },
    Part {
        name: "promtool",
        need: Need::Test,
        find: checks::find_promtool,
        install: checks::install_promtool,
    },
    Part {
        name: "nginx",
        need: Need::Test,
        find: checks::find_nginx,
        install: checks::install_nginx,
    },
    Part {
        name: "virtual machines",
        need: Need::Test,
        find: machines::find,
        install: machines::install,
    },
];

/// Sets up what is missing for `need`, and says nothing if nothing is.
pub(crate) fn ensure(need: Need) -> Result<()> {
    for part in PARTS.iter().filter(|part| part.need <= need) {
        if (part.find)().is_none() {
            install(part)?;
        }
    }
    Ok(())
}

pub(crate) use machines::install_with_kernel as install_machine;
pub(crate) use proxies::folder as proxies_folder;

/// What the kernel half is compared with. Nothing else needs it, so nothing else installs it.
const FILTERS: Part = Part {
    name: "nftables, iptables",
    need: Need::Lab,
    find: || program_among(&["nft", "iptables-legacy", "ethtool"]),
    install: || {
        debian::install(
            &["nftables", "iptables", "ethtool"],
            "`nft`, `iptables-legacy` and `ethtool`",
        )
    },
};

/// What the gateway is compared with, likewise.
const PROXIES: Part = Part {
    name: "nginx, HAProxy, Envoy, Caddy",
    need: Need::Lab,
    find: proxies::find,
    install: proxies::install,
};

/// What makes a profile of counts, likewise.
const PROFILER: Part = Part {
    name: "llvm-profdata",
    need: Need::Lab,
    find: profiler::find,
    install: profiler::install,
};

/// Sets up what makes a profile of counts, and says where it is.
pub(crate) fn ensure_profiler() -> Result<PathBuf> {
    if (PROFILER.find)().is_none() {
        install(&PROFILER)?;
    }
    profiler::path().context("llvm-profdata was there a moment ago")
}

/// Sets up what the kernel half is compared with.
pub(crate) fn ensure_filters() -> Result<()> {
    if (FILTERS.find)().is_none() {
        install(&FILTERS)?;
    }
    Ok(())
}

/// Sets up what the gateway is compared with.
pub(crate) fn ensure_proxies() -> Result<()> {
    if (PROXIES.find)().is_none() {
        install(&PROXIES)?;
    }
    Ok(())
}

/// Sets everything up and lists it.
pub(crate) fn report() -> Result<()> {
    let started = Instant::now();
    for part in &PARTS {
        let found = match (part.find)() {
            Some(found) => found,
            None => install(part)?,
        };
        println!("{:<18} {found}", part.name);
    }
    println!(
        "ready, {}: `cargo xtask build` builds the agent, `cargo xtask test` runs every check",
        shell::seconds(started.elapsed())
    );
    Ok(())
}

/// Installs a part, and makes sure that it can be found afterwards.
fn install(part: &Part) -> Result<String> {
    shell::step(&format!("set-up: {} is missing", part.name), || {
        (part.install)().with_context(|| format!("set-up could not install: {}", part.name))?;
        match (part.find)() {
            Some(found) => Ok(found),
            None => bail!(
                "{} was installed but does not work: run `cargo xtask setup` again and read its output from the top",
                part.name
            ),
        }
    })
}

/// Where the programs are, if all of them are there.
fn program_among(names: &[&str]) -> Option<String> {
    let found: Option<Vec<_>> = names
        .iter()
        .map(|name| shell::program(name).map(|file| file.display().to_string()))
        .collect();
    found.map(|files| files.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_need_includes_the_ones_before_it() {
        assert!(Need::Build < Need::Lab && Need::Lab < Need::Test);
    }

    #[test]
    fn parts_come_in_the_order_of_need() {
        assert!(PARTS.is_sorted_by_key(|part| part.need));
    }

    #[test]
    fn a_group_of_programs_is_there_only_if_all_are() {
        assert!(program_among(&["sh", "ls"]).is_some());
        assert_eq!(program_among(&["sh", "no-such-program-anywhere"]), None);
    }
}
