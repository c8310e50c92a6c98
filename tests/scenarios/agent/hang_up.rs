//! SIGHUP: the configuration file is read again, and what can change does.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use http::StatusCode;
use lab::{
    agent::{Agent, Signal},
    client::{Ask, Client},
    demo::setup::Stage,
    topology::Neighbour,
};

use crate::setting::{
    BAD_TOKEN, BY_TOKEN, Caller, GATEWAY, OPEN, REPORTS_PER_MINUTE, Setting, gateway, json, put_in_force,
    wait_until,
};

const SECOND: u16 = 9443;

/// What is said of the configuration file.
fn configured(agent: &Agent) -> Result<serde_json::Value> {
    Ok(json(agent, "/v1/status")?["configuration"].take())
}

/// Replaces the configuration file and has it read.
fn reload(stage: &Stage, config: &str) -> Result<()> {
    stage.workspace().write_config(config)?;
    stage.agent().signal(Signal::HangUp)
}

fn listener(config: &str, name: &str, port: u16) -> String {
    let listener = config.split("    - name: edge").nth(1).unwrap_or_default();
    let listener = listener.split("  authFailures").next().unwrap_or_default();
    let listener = listener.replace("[::]:8443", &format!("[::]:{port}"));
    format!("    - name: {name}{listener}")
}

fn with_listener(config: &str, name: &str, port: u16) -> String {
    let more = listener(config, name, port);
    config.replace("  authFailures", &format!("{more}  authFailures"))
}

fn client(stage: &Stage, port: u16) -> Result<Client> {
    let node = SocketAddr::new(Neighbour::Client.node_ipv4(), port);
    Ok(stage.verified_client()?.at(node))
}

fn answers(stage: &Stage, port: u16) -> Result<bool> {
    let answer = stage.ask(client(stage, port)?, Ask::get(OPEN))?;
    Ok(answer
        .is_ok_and(|answer| answer.status == StatusCode::OK || answer.status == StatusCode::UNAUTHORIZED))
}

#[test]
fn what_can_change_does_and_what_cannot_is_named() -> Result<()> {
    let setting = Setting {
        certificates: "optional",
        ..Setting::default()
    };
    let Some(stage) = setting.stage()? else {
        return Ok(());
    };
    let agent = stage.agent();
    let config = setting.plan().config;
    ensure!(!answers(&stage, SECOND)?);

    let changed = with_listener(&config, "second", SECOND)
        .replace("level: info", "level: debug")
        .replace("rate: 1000/m, denyFor: 5m", "rate: 1/m, denyFor: 5m")
        .replace("interval: 200ms", "interval: 300ms");
    reload(&stage, &changed)?;
    wait_until("the second listener", || answers(&stage, SECOND))?;
    wait_until("what needs a restart is named", || {
        Ok(configured(agent)?["needsRestart"] == serde_json::json!(["adapt"]))
    })?;
    let status = String::from_utf8(agent.command(&["status"])?.stdout)?;
    ensure!(
        status.contains("restart the agent to put these changed fields in force: adapt"),
        "{status}"
    );
    wait_until("lines of the new level", || {
        Ok(agent.log().contains("\"level\":\"DEBUG\""))
    })?;
    ensure!(answers(&stage, 8443)?, "the first listener goes on");

    // The new rate of failures denies who fails four times within a minute.
    let attacker = Caller::at(stage.lab().neighbour(Neighbour::Attacker))?;
    let node = SocketAddr::new(Neighbour::Attacker.node_ipv4(), SECOND);
    for _ in 0..4 {
        let ask = Ask::get(BY_TOKEN).with_token(BAD_TOKEN)?;
        let _refused = attacker.once(&stage.gateway_client(None)?.at(node), &ask)?;
    }
    wait_until("the source is denied", || {
        Ok(json(agent, "/v1/denials")?
            .as_array()
            .is_some_and(|denials| denials.len() == 1))
    })?;

    // Back: the listener goes, nothing needs a restart any more.
    reload(&stage, &config)?;
    wait_until("the second listener is gone", || Ok(!answers(&stage, SECOND)?))?;
    wait_until("nothing needs a restart", || {
        Ok(configured(agent)? == serde_json::json!({"refused": null, "needsRestart": []}))
    })?;
    ensure!(answers(&stage, 8443)?);
    Ok(())
}

#[test]
fn a_broken_configuration_changes_nothing_and_is_said_in_three_places() -> Result<()> {
    let setting = Setting::default();
    let Some(stage) = setting.stage()? else {
        return Ok(());
    };
    let agent = stage.agent();
    let config = setting.plan().config;
    let refused = |count: f64| {
        agent.wait_for("the configuration refused", |metrics| {
            metrics.sum("enforcer_configuration_refused", &[]) == 1.0
                && metrics.sum("enforcer_configuration_load_failures_total", &[]) == count
        })
    };
    let broken = with_listener(&config, "second", SECOND).replace("workers: 2", "workers: two");
    reload(&stage, &broken)?;
    refused(1.0)?;
    let status = String::from_utf8(agent.command(&["status"])?.stdout)?;
    for part in [
        "the older one stays in force",
        "enforcer.yaml:",
        "gateway.workers",
    ] {
        ensure!(status.contains(part), "`{part}` is not in:\n{status}");
    }
    ensure!(agent.log().contains("the changed configuration is refused"));
    ensure!(!answers(&stage, SECOND)? && answers(&stage, 8443)?);

    // A good file with a listener that cannot be served is refused as a whole.
    let second = listener(&config, "second", SECOND);
    let without = second.replace("server.pem", "missing.pem");
    let unserved = with_listener(&config, "second", SECOND).replace(&second, &without);
    reload(&stage, &unserved.replace("level: info", "level: debug"))?;
    refused(2.0)?;
    let why = configured(agent)?["refused"].to_string();
    ensure!(why.contains("missing.pem"), "{why}");
    ensure!(!agent.log().contains("\"level\":\"DEBUG\""));

    // Nor may a listener go that a route names.
    let named = gateway(setting.health, REPORTS_PER_MINUTE).replace("hosts:", "listeners: [edge]\n  hosts:");
    put_in_force(&stage, GATEWAY, &named)?;
    reload(&stage, &config.replace("name: edge", "name: other"))?;
    refused(3.0)?;
    let why = configured(agent)?["refused"].to_string();
    ensure!(why.contains("names the listener `edge`"), "{why}");
    let misspelt = named.replace("listeners: [edge]", "listeners: [egde]");
    stage.workspace().write_policy(GATEWAY, &misspelt)?;
    agent.wait_for("a listener that is not there refused", |metrics| {
        metrics.sum("enforcer_policies_refused", &[]) == 1.0
    })?;
    put_in_force(&stage, GATEWAY, &named)?;

    reload(&stage, &config)?;
    agent.wait_for("the configuration in force", |metrics| {
        metrics.sum("enforcer_configuration_refused", &[]) == 0.0
    })?;
    ensure!(configured(agent)?["refused"].is_null());
    Ok(())
}
