//! Disks that do not answer, and a log that nobody reads.

use std::{
    io::{Read as _, pipe},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use http::StatusCode;
use lab::agent::Signal;

use crate::bench::{Bench, DRAIN, GRACE, SLACK};

/// A file system of its own, which can be frozen. Dropping it unmounts it.
struct Disk(tempfile::TempDir);

impl Disk {
    fn mount() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let image = folder.path().join("image");
        std::fs::File::create(&image)?.set_len(16 << 20)?;
        run("mkfs.ext4", &["-q".as_ref(), &image])?;
        let disk = Self(folder);
        std::fs::create_dir(disk.path())?;
        run("mount", &["-o".as_ref(), "loop".as_ref(), &image, &disk.path()])?;
        Ok(disk)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("disk")
    }

    /// It answers nothing until what is returned is dropped.
    fn freeze(&self) -> Result<Frozen> {
        run("fsfreeze", &["--freeze".as_ref(), &self.path()])?;
        Ok(Frozen(self.path()))
    }
}

struct Frozen(PathBuf);

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = run("fsfreeze", &["--unfreeze".as_ref(), &self.0]) {
            eprintln!("{error:#}");
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while run("umount", &[&self.path()]).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn run(program: &str, arguments: &[&Path]) -> Result<()> {
    let output = Command::new(program).args(arguments).output()?;
    ensure!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn wait_until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds()? {
        if Instant::now() > deadline {
            bail!("{what}: not within a minute");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// What is read hangs, as on a network file system whose server is gone: it is named, and nothing else waits.
fn unread(what: &str) -> Result<()> {
    let Some(mut bench) = Bench::start("", |_| {})? else {
        return Ok(());
    };
    bench.fault(&format!("read-{what}"), "hang")?;
    bench.agent.signal(Signal::HangUp)?;
    let unread = |wanted: f64| {
        bench.agent.wait_for("the files are named", |metrics| {
            metrics.sum("enforcer_files_unread", &[("files", what)]) == wanted
        })
    };
    unread(1.0)?;
    let answer = bench.agent.get("/healthz")?;
    let said = String::from_utf8(answer.body.to_vec())?;
    ensure!(
        answer.status == StatusCode::OK,
        "a restart would not help: {said}"
    );
    ensure!(
        said.contains(&format!("{what}: the disk does not answer")),
        "{said}"
    );
    for _ in 0..6 {
        bench.expect("/metrics", StatusCode::OK)?;
        bench.expect("/v1/status", StatusCode::OK)?;
        bench.expect("/readyz", StatusCode::OK)?;
    }
    bench.expect_limits()?;
    let began = Instant::now();
    let status = bench.expect_end()?;
    println!("{what}: {status} after {:?}", began.elapsed());
    Ok(())
}

#[test]
fn f1_certificates_that_cannot_be_read_stop_nothing() -> Result<()> {
    unread("certificates")
}

#[test]
fn f1_policies_that_cannot_be_read_stop_nothing() -> Result<()> {
    unread("policies")
}

#[test]
fn f1_a_configuration_that_cannot_be_read_stops_nothing() -> Result<()> {
    unread("configuration")
}

#[test]
fn f1_f6_a_disk_that_does_not_answer_stops_nothing() -> Result<()> {
    let disk = Disk::mount()?;
    let place = disk.path().display().to_string();
    let more = format!("stateDir: {place}/state\naudit: {{file: {place}/audit.log}}\n");
    let Some(mut bench) = Bench::start(&more, |_| {})? else {
        return Ok(());
    };
    // Thawed before the agent is waited for, whatever goes wrong.
    let frozen = disk.freeze()?;
    let began = Instant::now();
    let revoke = bench.agent.command(&[
        "revoke",
        "api-key",
        "nobody",
        // No document has it.
        "--yes",
        "--for",
        "1h",
        "--reason",
        "test",
        "--runtime-dir",
        "run",
    ])?;
    let said = [revoke.stdout, revoke.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    println!("revoke took {:?}: {said:?}", began.elapsed());
    ensure!(said.concat().contains("not yet written"), "{said:?}");
    ensure!(began.elapsed() < Duration::from_secs(2) + 2 * SLACK);
    for _ in 0..4 {
        bench.expect("/healthz", StatusCode::OK)?;
        bench.expect("/metrics", StatusCode::OK)?;
        bench.expect("/v1/status", StatusCode::OK)?;
    }
    let unkept = bench.agent.metrics()?.sum("enforcer_revocations_unkept", &[]);
    ensure!(unkept == 1.0, "{unkept}");
    bench.expect_limits()?;
    // No part is to blame for the disk.
    bench.expect("/readyz", StatusCode::OK)?;

    let began = Instant::now();
    bench.agent.signal(Signal::Terminate)?;
    wait_until("the drain's end", || Ok(bench.agent.log().contains("drained")))?;
    let took = began.elapsed();
    println!("drained after {took:?}");
    ensure!(took < DRAIN + GRACE + SLACK, "{took:?}");
    std::thread::sleep(DRAIN + GRACE);
    drop(frozen);
    // Linux has ended it as soon as the write was done.
    bench.agent.wait_until_ended()?;
    Ok(())
}

#[test]
fn f1_a_log_that_nobody_reads_stops_nothing() -> Result<()> {
    let (mut unread, stderr) = pipe()?;
    let Some(mut bench) = Bench::start("log: {level: trace}\n", |command| {
        command.stderr(stderr);
    })?
    else {
        return Ok(());
    };
    let mut round = 0;
    wait_until("lines that are dropped", || {
        round += 1;
        bench.change_policy(round)?;
        let metrics = bench.agent.metrics()?;
        Ok(metrics.sum("enforcer_log_lines_total", &[("result", "dropped")]) > 0.0)
    })?;
    for path in ["/healthz", "/readyz", "/metrics", "/v1/status"] {
        bench.expect(path, StatusCode::OK)?;
    }
    bench.expect_limits()?;
    let before = bench.agent.metrics()?.sum("enforcer_generation", &[]);
    bench.change_policy(round + 1)?;
    bench.agent.wait_for("the change in force", |metrics| {
        metrics.sum("enforcer_generation", &[]) > before
    })?;
    bench.expect_end()?;
    let mut log = String::new();
    unread.read_to_string(&mut log)?;
    ensure!(log.contains("ready"), "what was written is whole");
    Ok(())
}
