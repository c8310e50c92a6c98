//! `enforcer check`: everything that is wrong at once, each at its place, with what would be right.

use std::process::{Command, Output};

use anyhow::{Result, ensure};
use lab::{agent, workspace::Workspace};
use serde_json::Value;

/// A misspelt field, a rate that no limiter keeps, a prefix that is none, a service that nobody defines.
const POLICIES: &str = r#"apiVersion: enforcer.dev/v1
kind: PacketPolicy
metadata: {name: edge}
spec:
  interface: [eth0]
  interfaces: [eth0]
  deny: [10.0.0.300/8]
  limits:
    - {name: per-source, per: source, rate: 0/s}
---
apiVersion: enforcer.dev/v1
kind: Service
metadata: {name: orders}
spec: {endpoints: ["http://10.0.0.7:8080"]}
---
apiVersion: enforcer.dev/v1
kind: Route
metadata: {name: orders}
spec:
  hosts: [api.example.com]
  rules:
    - match: {path: {prefix: /}}
      require: {anonymous: true}
      service: order
"#;

const EXPECTED: &str = "\
policies/bad.yaml:5:3: error: spec.interface: there is no field `interface`
 5 |   interface: [eth0]
   |   ^
  help: did you mean `interfaces`?
policies/bad.yaml:7:10: error: spec.deny[0]: 10.0.0.300/8: octet 300 is above 255: each of the four is from 0 to 255
 7 |   deny: [10.0.0.300/8]
   |          ^
policies/bad.yaml:9:45: error: spec.limits[0].rate: zero is never unlimited: leave the limit out, or deny the sources
 9 |     - {name: per-source, per: source, rate: 0/s}
   |                                             ^
policies/bad.yaml:24:16: error: spec.rules[0].service: there is no service `order`
 24 |       service: order
    |                ^
  help: did you mean `orders`?
1 file: 4 errors, 0 warnings
";

const PLACES: [&str; 4] = [
    "policies/bad.yaml:5:3 spec.interface",
    "policies/bad.yaml:7:10 spec.deny[0]",
    "policies/bad.yaml:9:45 spec.limits[0].rate",
    "policies/bad.yaml:24:16 spec.rules[0].service",
];

fn check(workspace: &Workspace, more: &[&str]) -> Result<Output> {
    let output = Command::new(agent::binary()?)
        .args(["check", "policies/bad.yaml"])
        .args(more)
        .current_dir(workspace.path())
        .output()?;
    Ok(output)
}

#[test]
fn four_mistakes_are_said_at_once_each_at_its_place() -> Result<()> {
    let workspace = Workspace::create()?;
    workspace.write_policy("bad.yaml", POLICIES)?;
    let text = check(&workspace, &[])?;
    let stdout = String::from_utf8(text.stdout)?;
    ensure!(text.status.code() == Some(2), "{}\n{stdout}", text.status);
    ensure!(
        text.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&text.stderr)
    );
    ensure!(stdout == EXPECTED, "expected:\n{EXPECTED}\ngot:\n{stdout}");

    let json = check(&workspace, &["--output", "json"])?;
    ensure!(json.status.code() == Some(2), "{}", json.status);
    let report: Value = serde_json::from_slice(&json.stdout)?;
    ensure!(report["files"] == 1, "{report}");
    let problems = report["problems"].as_array().cloned().unwrap_or_default();
    let places: Vec<String> = problems
        .iter()
        .map(|problem| {
            format!(
                "{}:{}:{} {}",
                problem["file"].as_str().unwrap_or_default(),
                problem["line"],
                problem["column"],
                problem["path"].as_str().unwrap_or_default()
            )
        })
        .collect();
    ensure!(places == PLACES, "{places:#?}");
    ensure!(
        problems
            .iter()
            .all(|problem| problem["severity"] == "error" && problem["source"].is_string())
    );
    Ok(())
}

#[test]
fn what_is_right_is_said_in_one_line() -> Result<()> {
    let workspace = Workspace::create()?;
    let good = POLICIES
        .replace("  interface: [eth0]\n", "")
        .replace(".300", "")
        .replace("10.0.0/8", "10.0.0.0/8")
        .replace("0/s}", "10/s}")
        .replace("service: order\n", "service: orders\n");
    workspace.write_policy("bad.yaml", &good)?;
    let output = check(&workspace, &[])?;
    let stdout = String::from_utf8(output.stdout)?;
    ensure!(
        output.status.success() && stdout == "1 file: 0 errors, 0 warnings\n",
        "{}: {stdout}",
        output.status
    );
    Ok(())
}
