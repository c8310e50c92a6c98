//! Each supervised part hangs, and panics.

use std::{
    os::unix::net::UnixDatagram,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use http::StatusCode;
use lab::client::Ask;

use crate::bench::{Bench, DEAD_MAN, DRAIN, GRACE, SLACK};

/// How long a part may make no progress, and how often is looked.
const NAMED_AFTER: Duration = Duration::from_secs(10);

/// A part hangs: it is named in time, systemd is told, SIGTERM is heard.
fn hang(part: &str, limits_hold: bool) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("notify");
    let systemd = UnixDatagram::bind(&path)?;
    systemd.set_nonblocking(true)?;
    let Some(mut bench) = Bench::start("", |command| {
        command.env("NOTIFY_SOCKET", &path);
    })?
    else {
        return Ok(());
    };
    let told = told(&systemd)?;
    ensure!(told.contains(&"READY=1".to_owned()), "{told:?}");
    ensure!(!told.contains(&"WATCHDOG=trigger".to_owned()), "{told:?}");
    bench.expect("/healthz", StatusCode::OK)?;

    bench.fault(part, "hang")?;
    let began = Instant::now();
    wait_for_trigger(&systemd)?;
    let took = began.elapsed();
    println!("{part}: systemd is told after {took:?}");
    // The supervisor counts the time in which it has a processor itself: less than passes on a busy machine.
    ensure!(
        (NAMED_AFTER - SLACK..2 * NAMED_AFTER + GRACE).contains(&took),
        "{took:?}"
    );
    let said = bench.agent.log();
    ensure!(
        said.contains("no progress for 10s") && said.contains(&format!(r#""part":"{part}""#)),
        "{}",
        bench.agent.log_tail()
    );
    // Who hangs itself may give no answer at all, which is no good one either.
    if part == "admin" {
        let answer = bench.agent.ask(Ask::get("/healthz"))?;
        ensure!(!answer.is_ok_and(|answer| answer.status == StatusCode::OK));
    } else {
        bench.wait_for_trouble(part)?;
        bench.expect("/readyz", StatusCode::SERVICE_UNAVAILABLE)?;
        let metrics = bench.agent.metrics()?;
        let stalled = metrics.sum("enforcer_part_stalled", &[("part", part)]);
        ensure!(stalled == 1.0, "{stalled}");
    }
    if limits_hold {
        ensure!(took > DEAD_MAN * 2);
        bench.expect_limits_until_now()?;
    }
    let status = bench.expect_end()?;
    println!("{part}: {status}");
    Ok(())
}

/// Reads what systemd is told until that is that a part hangs; the kernel keeps ten messages.
fn wait_for_trigger(systemd: &UnixDatagram) -> Result<()> {
    let deadline = Instant::now() + 4 * NAMED_AFTER;
    while !told(systemd)?.contains(&"WATCHDOG=trigger".to_owned()) {
        ensure!(Instant::now() < deadline, "systemd is not told");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn told(systemd: &UnixDatagram) -> Result<Vec<String>> {
    let mut told = Vec::new();
    let mut buffer = [0; 256];
    while let Ok(length) = systemd.recv(&mut buffer) {
        told.push(String::from_utf8(buffer[..length].to_vec())?);
    }
    Ok(told)
}

/// A part panics: the agent ends by itself, for whoever started it to start it again.
fn panic(part: &str) -> Result<()> {
    let Some(mut bench) = Bench::start("", |_| {})? else {
        return Ok(());
    };
    let began = Instant::now();
    bench.fault(part, "panic")?;
    let status = bench.agent.wait_until_ended()?;
    let took = began.elapsed();
    println!("{part}: ended {took:?} after its panic, {status}");
    ensure!(status.code() == Some(1), "{status}: {}", bench.agent.log_tail());
    ensure!(took < DRAIN + GRACE + 2 * SLACK, "{took:?}");
    let log = bench.agent.log();
    ensure!(log.contains("a fault on purpose"), "{}", bench.agent.log_tail());
    Ok(())
}

#[test]
fn f1_a_worker_that_hangs_is_named_and_limits_hold() -> Result<()> {
    hang("gateway-0", true)
}

#[test]
fn f1_an_admin_address_that_hangs_is_named_and_limits_hold() -> Result<()> {
    hang("admin", true)
}

#[test]
fn f1_an_application_of_policies_that_hangs_is_named_and_limits_hold() -> Result<()> {
    hang("policies", true)
}

#[test]
fn f1_a_controller_that_hangs_is_named() -> Result<()> {
    hang("controller", false)
}

#[test]
fn f1_a_heartbeat_that_hangs_is_named() -> Result<()> {
    hang("heartbeat", false)
}

#[test]
fn f1_a_part_that_panics_ends_the_agent() -> Result<()> {
    for part in ["gateway-1", "admin", "policies", "controller", "heartbeat"] {
        panic(part)?;
    }
    Ok(())
}
