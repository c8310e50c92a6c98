//! The audit log's file: put aside when it is full, made anew when it was moved away, and nobody waits for it.

use std::{
    fs,
    num::NonZeroU32,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use enforcer_telemetry::audit::{
    self, Audit, AuditThread,
    config::{AuditConfig, Destination},
    record::Event,
};
use prometheus::{Registry, TextEncoder};
use tempfile::TempDir;

/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(20);

fn config(file: &Path, max_size: u64, keep: u32) -> AuditConfig {
    AuditConfig {
        to: Destination::File {
            path: file.to_owned(),
            max_size,
            keep,
        },
        sample: 0,
        per_second: NonZeroU32::MIN,
    }
}

fn start(file: &Path, max_size: u64, keep: u32) -> (Audit, AuditThread, Registry) {
    let registry = Registry::new();
    let (audit, thread) = audit::start(&config(file, max_size, keep), &registry).unwrap();
    (audit, thread, registry)
}

fn note(audit: &Audit, why: &str) {
    audit.event(&Event::PoliciesRefused { why });
}

fn count(registry: &Registry, result: &str) -> u64 {
    let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    let start = format!("enforcer_audit_records_total{{result=\"{result}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&start));
    value.unwrap().parse().unwrap()
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "in {PATIENCE:?} not: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn lines(file: &Path) -> usize {
    fs::read_to_string(file).map_or(0, |text| text.lines().count())
}

#[test]
fn full_files_are_put_aside_and_the_oldest_go() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("audit.log");
    let (audit, thread, registry) = start(&file, 64 << 10, 2);
    let why = "x".repeat(10_000);
    for round in 1..=6 {
        for _ in 0..4 {
            note(&audit, &why);
        }
        until("they are written", || count(&registry, "written") == round * 4);
    }
    assert!(thread.stop(Instant::now() + PATIENCE));
    let mut names: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    // Four lines are 40 KB, so that no file takes eight.
    assert_eq!(names, ["audit.log", "audit.log.1", "audit.log.2"]);
    for name in names {
        let text = fs::read_to_string(directory.path().join(&name)).unwrap();
        assert!(text.len() <= 64 << 10, "{name}");
        for line in text.lines() {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(record["event"], "policies-refused", "no line is torn");
        }
    }
}

#[test]
fn a_file_that_is_moved_away_is_made_anew() {
    let directory = TempDir::new().unwrap();
    let [file, moved] = ["audit.log", "moved"].map(|name| directory.path().join(name));
    let (audit, thread, _registry) = start(&file, 1 << 20, 1);
    note(&audit, "first");
    until("the first is written", || lines(&file) == 1);
    fs::rename(&file, &moved).unwrap();
    note(&audit, "second");
    until("the second is in a new file", || lines(&file) == 1);
    assert_eq!(lines(&moved), 1);
    assert!(thread.stop(Instant::now() + PATIENCE));
    // The next agent goes on with the file.
    let (audit, thread, _registry) = start(&file, 1 << 20, 1);
    note(&audit, "third");
    assert!(thread.stop(Instant::now() + PATIENCE));
    assert_eq!(lines(&file), 2, "what waits is written at the end");
}

#[test]
fn what_cannot_be_written_is_counted_and_nobody_waits() {
    let directory = TempDir::new().unwrap();
    let folder = directory.path().join("log");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("audit.log");
    let (audit, thread, registry) = start(&file, 1 << 20, 1);
    fs::remove_dir_all(&folder).unwrap();
    note(&audit, "lost");
    until("it is counted", || count(&registry, "failed") == 1);
    fs::create_dir(&folder).unwrap();
    note(&audit, "found");
    until("it goes on", || lines(&file) == 1);
    assert!(thread.stop(Instant::now() + PATIENCE));
    note(&audit, "nobody writes any more");
    assert_eq!(count(&registry, "dropped"), 1);
}

#[test]
fn a_file_that_cannot_be_opened_is_said_at_the_start() {
    let config = config(Path::new("/nowhere/audit.log"), 1 << 20, 1);
    let error = audit::start(&config, &Registry::new()).unwrap_err();
    assert!(
        error.to_string().contains("/nowhere/audit.log cannot be opened"),
        "{error}"
    );
}
