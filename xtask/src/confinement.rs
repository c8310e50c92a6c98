//! Where `unsafe` may be: the compiler knows of one crate at a time, this test of all.

use std::{fs, path::Path};

use crate::shell;

/// The folders and files that may have unsafe code.
const ALLOWED: [&str; 7] = [
    "enforcer-common/src/pod.rs",
    "enforcer-ebpf/src",
    "enforcer/sys/src",
    "tests/ebpf/src",
    "tests/src/sys",
    "tests/src/sys.rs",
    "xtask/toolchain/src/lib.rs",
];

/// The root that lets one module have it: what it says there is no unsafe code.
const ROOT: &str = "enforcer-common/src/lib.rs";

/// The crates of the agent that may have it, and so do not forbid it.
const MAY: [&str; 1] = ["enforcer/sys/src/lib.rs"];

/// The lines of a source that have unsafe code, or permit it.
fn unsafe_lines(source: &str, is_root: bool) -> impl Iterator<Item = (usize, &str)> {
    let is_unsafe = move |line: &str| {
        let code = line.split("//").next().unwrap_or_default();
        let has = |word: &str| {
            let mut words = code.split(|c: char| !c.is_alphanumeric() && c != '_');
            words.any(|each| each == word)
        };
        let permits = has("unsafe_code") && (has("allow") || has("expect"));
        has("unsafe") && !code.contains('"') || permits && !is_root
    };
    let lines = source.lines().enumerate();
    lines
        .filter(move |(_, line)| is_unsafe(line))
        .map(|(at, line)| (at + 1, line))
}

/// All Rust sources below a folder, but for what cargo has built.
fn sources(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let path = path.strip_prefix(shell::root()).unwrap();
            found.push(path.to_str().unwrap().to_owned());
        }
    }
}

#[test]
fn unsafe_code_is_where_it_may_be() {
    let mut found = Vec::new();
    sources(shell::root(), &mut found);
    assert!(found.len() > 500, "only {} sources were found", found.len());
    let this = file!();
    let mut seen = [false; ALLOWED.len()];
    for path in found.iter().filter(|path| *path != this) {
        let source = fs::read_to_string(shell::root().join(path)).unwrap();
        let lines: Vec<_> = unsafe_lines(&source, path == ROOT).collect();
        match ALLOWED
            .iter()
            .position(|allowed| Path::new(path).starts_with(allowed))
        {
            Some(place) => seen[place] |= !lines.is_empty(),
            None => assert!(lines.is_empty(), "{path} has unsafe code: {lines:?}"),
        }
    }
    assert_eq!(
        seen,
        [true; ALLOWED.len()],
        "a place that may have unsafe code has none"
    );
}

#[test]
fn the_agents_crates_forbid_unsafe_code() {
    let mut found = Vec::new();
    sources(&shell::root().join("enforcer"), &mut found);
    let is_root = |path: &&String| path.ends_with("src/lib.rs") || path.ends_with("src/main.rs");
    let roots: Vec<_> = found.iter().filter(is_root).collect();
    assert!(roots.len() > 10, "{roots:?}");
    for root in roots {
        let source = fs::read_to_string(shell::root().join(root)).unwrap();
        let forbids = source.lines().any(|line| line == "#![forbid(unsafe_code)]");
        assert_eq!(forbids, !MAY.contains(&root.as_str()), "{root}");
    }
}

#[test]
fn unsafe_code_is_seen() {
    for (line, is_seen) in [
        ("    unsafe { f() }", true),
        ("unsafe impl Pod for X {}", true),
        ("#![allow(unsafe_code)]", true),
        ("#[expect(unsafe_code, reason = \"x\")]", true),
        ("#![forbid(unsafe_code)]", false),
        ("// unsafe { f() }", false),
        ("fn that_is_unsafe() {}", false),
    ] {
        assert_eq!(unsafe_lines(line, false).next().is_some(), is_seen, "{line}");
    }
}
