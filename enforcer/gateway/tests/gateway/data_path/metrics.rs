//! What is counted, and whether Prometheus likes its form.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use crate::data_path::support::{
    Plan,
    client::{Client, H1},
    eventually,
    origin::Origin,
    policy,
};

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted() {
    let origin = Origin::start().await;
    let lab = Plan::default().start(policy::open(&[origin.address]));
    let mut client = Client::connect(&lab, H1).await;
    for path in ["/", "/a", "/%00"] {
        client.get(path).await;
    }
    let address = origin.address;
    for line in [
        r#"enforcer_requests_total{code_class="2xx",route="main",service="orders",verdict="allowed"} 2"#
            .to_owned(),
        r#"enforcer_requests_total{code_class="4xx",route="",service="",verdict="invalid"} 1"#.to_owned(),
        r#"enforcer_request_seconds_count{route="main"} 2"#.to_owned(),
        r#"enforcer_connections{listener="main"} 1"#.to_owned(),
        r#"enforcer_handshakes_total{listener="main",result="completed"} 1"#.to_owned(),
        format!(
            r#"enforcer_upstream_requests_total{{endpoint="{address}",result="answered",service="orders"}} 2"#
        ),
        format!(r#"enforcer_endpoint_healthy{{endpoint="{address}",service="orders"}} 1"#),
    ] {
        eventually(&line, async || lab.metrics().lines().any(|each| each == line)).await;
    }
    assert!(promtool(&lab.metrics()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_is_not_counted_for_ever() {
    let origin = Origin::start().await;
    let lab = Plan::default().start(policy::open(&[origin.address]));
    Client::connect(&lab, H1).await.get("/").await;
    eventually("it is counted", async || {
        lab.metrics().contains(r#"verdict="allowed"} 1"#)
    })
    .await;
    lab.policies.replace(enforcer_model::PolicySet::default());
    for name in [r#"route="main""#, r#"service="orders""#] {
        eventually(name, async || !lab.metrics().contains(name)).await;
    }
}

/// Whether `promtool check metrics` finds nothing. Where it is not installed, says so.
fn promtool(metrics: &str) -> bool {
    let command = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .spawn();
    let mut child = match command {
        Ok(child) => child,
        Err(error) => {
            let strict = std::env::var_os("ENFORCER_TEST_STRICT").is_some();
            println!("skipped: promtool: {error}");
            return !strict;
        }
    };
    child.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    child.wait().unwrap().success()
}
