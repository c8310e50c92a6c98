//! How many lines the workspace has: code, comments and tests, by crate.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};

use crate::shell;

/// Lines of one crate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lines {
    code: usize,
    comments: usize,
    /// Code and comments of tests.
    tests: usize,
    /// Functions that the test harness runs.
    cases: usize,
}

/// The crates, each by its folder; the first whose folder a file is in counts it.
const CRATES: [&str; 18] = [
    "enforcer-common",
    "enforcer-ebpf",
    "enforcer/http-rules",
    "enforcer/model",
    "enforcer/supervision",
    "enforcer/sys",
    "enforcer/telemetry",
    "enforcer/routing",
    "enforcer/tls",
    "enforcer/policy",
    "enforcer/dataplane",
    "enforcer/gateway",
    "enforcer",
    "tests/ebpf",
    "tests",
    "xtask/toolchain",
    "xtask",
    "fuzz",
];

/// Prints the table.
pub(crate) fn run() -> Result<()> {
    let files = shell::output_of("git", ["ls-files", "*.rs"])
        .context("`git ls-files` failed: run this in a checkout")?;
    let mut crates = BTreeMap::<&str, Lines>::new();
    for file in files.lines() {
        let Some(name) = CRATES.into_iter().find(|name| Path::new(file).starts_with(name)) else {
            continue;
        };
        let text =
            fs::read_to_string(shell::root().join(file)).with_context(|| format!("{file} cannot be read"))?;
        crates.entry(name).or_default().add(count(&text, is_test(file)));
    }
    let mut all = Lines::default();
    println!(
        "{:<22} {:>8} {:>9} {:>8} {:>7}",
        "crate", "code", "comments", "tests", "cases"
    );
    for (name, lines) in crates {
        println!("{name:<22} {lines}");
        all.add(lines);
    }
    println!("{:<22} {all}", "all");
    println!(
        "test lines for each line of code: {:.2}",
        all.tests as f64 / all.code as f64
    );
    Ok(())
}

impl Lines {
    fn add(&mut self, other: Self) {
        self.code += other.code;
        self.comments += other.comments;
        self.tests += other.tests;
        self.cases += other.cases;
    }
}

impl std::fmt::Display for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            code,
            comments,
            tests,
            cases,
        } = self;
        write!(f, "{code:>8} {comments:>9} {tests:>8} {cases:>7}")
    }
}

/// Whether all of a file is about tests. The lab is.
fn is_test(file: &str) -> bool {
    let is_folder = |folder: &str| file.split('/').any(|part| part == folder);
    is_folder("tests") || is_folder("fuzz") || file.ends_with("_tests.rs") || file.ends_with("/tests.rs")
}

/// Blank lines count as nothing; a module of tests goes from its attribute to the brace in the first column.
fn count(text: &str, is_test: bool) -> Lines {
    let mut lines = Lines::default();
    let mut in_tests = is_test;
    let mut before = "";
    for line in text.lines() {
        let bare = line.trim();
        if before == "#[cfg(test)]" && line.starts_with("mod ") && line.ends_with('{') {
            in_tests = true;
        }
        if bare.starts_with("#[test]") || bare.starts_with("#[tokio::test") {
            lines.cases += 1;
        }
        match () {
            () if bare.is_empty() => {}
            () if in_tests => lines.tests += 1,
            () if bare.starts_with("//") => lines.comments += 1,
            () => lines.code += 1,
        }
        if line == "}" && !is_test {
            in_tests = false;
        }
        before = line;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_comments_and_tests_are_told_apart() {
        let text = "//! About.\n\nfn f() {\n    // Why.\n}\n\n#[cfg(test)]\nmod tests {\n    #[test]\n    fn g() {}\n}\nfn h() {}\n";
        let lines = count(text, false);
        assert_eq!(
            (lines.code, lines.comments, lines.tests, lines.cases),
            (4, 2, 4, 1)
        );
        assert_eq!(count(text, true).tests, 10);
        assert!(is_test("tests/src/load.rs") && !is_test("enforcer/src/main.rs"));
    }
}
