//! Where requests go: both upstreams, only those that are well, and the one with less to do.

use std::time::Duration;

use anyhow::{Result, ensure};
use http::StatusCode;
use lab::{
    client::Ask,
    demo::setup::Stage,
    load::{Load, Pace, Reuse},
};

use crate::setting::{OPEN, Setting};

const HEALTH: &str = "{path: /healthz, interval: 200ms, unhealthyAfter: 2, healthyAfter: 2}";

fn stage() -> Result<Option<Stage>> {
    let setting = Setting {
        health: HEALTH,
        ..Setting::default()
    };
    setting.stage()
}

fn expect_health(stage: &Stage, expected: [f64; 2]) -> Result<()> {
    stage
        .agent()
        .wait_for(&format!("upstreams' health {expected:?}"), |metrics| {
            let health = stage.upstreams().each_ref().map(|upstream| {
                let endpoint = upstream.address().to_string();
                metrics.sum(
                    "enforcer_endpoint_healthy",
                    &[("service", "orders"), ("endpoint", &endpoint)],
                )
            });
            health == expected
        })?;
    Ok(())
}

/// Sends requests one by one over one connection; gives how many each upstream has served.
fn share(stage: &Stage, requests: u64) -> Result<[u64; 2]> {
    let before = stage.served();
    let client = stage.verified_client()?;
    let statuses = stage.client_thread().wait(async move {
        let mut connection = client.connect().await?;
        let mut statuses = Vec::new();
        for _ in 0..requests {
            statuses.push(connection.send(&Ask::get(OPEN)).await?.status);
        }
        Ok::<_, lab::client::Failure>(statuses)
    })??;
    ensure!(
        statuses.iter().all(|status| *status == StatusCode::OK),
        "{statuses:?}"
    );
    let after = stage.served();
    Ok([after[0] - before[0], after[1] - before[1]])
}

#[test]
fn an_upstream_that_fails_is_left_out_until_it_is_well() -> Result<()> {
    let Some(stage) = stage()? else {
        return Ok(());
    };
    let [a, b] = stage.upstreams();
    expect_health(&stage, [1.0, 1.0])?;
    ensure!(
        share(&stage, 40)? == [20, 20],
        "with as much to do, they take turns"
    );

    a.set_failing(true);
    expect_health(&stage, [0.0, 1.0])?;
    ensure!(share(&stage, 20)? == [0, 20]);
    b.set_failing(true);
    expect_health(&stage, [0.0, 0.0])?;
    let answer = stage.ask(stage.verified_client()?, Ask::get(OPEN))??;
    ensure!(
        answer.status == StatusCode::SERVICE_UNAVAILABLE,
        "{}",
        answer.status
    );
    ensure!(
        answer.header("content-type") == Some("application/problem+json"),
        "{answer:?}"
    );

    for upstream in [a, b] {
        upstream.set_failing(false);
    }
    expect_health(&stage, [1.0, 1.0])?;
    ensure!(share(&stage, 40)? == [20, 20]);
    Ok(())
}

#[test]
fn the_upstream_with_less_to_do_gets_more() -> Result<()> {
    let Some(stage) = stage()? else {
        return Ok(());
    };
    expect_health(&stage, [1.0, 1.0])?;
    stage.upstreams()[0].set_delay(Duration::from_millis(200));
    let load = Load {
        connections: 8,
        pace: Pace::Closed,
        reuse: Reuse::KeepAlive,
        warm_up: Duration::ZERO,
        duration: Duration::from_secs(2),
    };
    let report = stage
        .client_thread()
        .wait(load.run(stage.verified_client()?, Ask::get(OPEN)))?;
    ensure!(report.failures.is_empty(), "{report:?}");
    let [slow, quick] = stage.served();
    ensure!(slow > 0, "the slow one is still used: {slow} and {quick}");
    ensure!(
        quick > 5 * slow,
        "{slow} by the slow one and {quick} by the quick one"
    );
    Ok(())
}
