//! What an operator does and sees: the command line, and who may change what.

use std::{net::SocketAddr, process::Output};

use anyhow::{Result, ensure};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use lab::{client::Ask, demo::setup::Stage, topology::Neighbour};
use serde_json::{Value, json};

use crate::{
    setting::{Setting, json as answer_of, packet_policy},
    traffic::{connect, is_answered, listen},
};

const TOKEN: HeaderName = HeaderName::from_static("x-enforcer-token");
const SERVICE: u16 = 7000;

fn setting() -> Setting {
    Setting {
        management: "[10.203.3.0/24]".to_owned(),
        edge: packet_policy(
            "edge",
            "interfaces: [to-client, to-attacker]
  ports: [tcp/8443]
  limits:
    - {name: per-source, per: source, rate: 1000/s, burst: 2000}",
        ),
        ..Setting::default()
    }
}

/// Runs a command of the binary; expects this exit code. Gives standard output and error.
fn run(stage: &Stage, code: i32, arguments: &[&str]) -> Result<(String, String)> {
    let Output {
        status,
        stdout,
        stderr,
    } = stage.agent().command(arguments)?;
    let (stdout, stderr) = (String::from_utf8(stdout)?, String::from_utf8(stderr)?);
    ensure!(
        status.code() == Some(code),
        "{arguments:?}: {status}, expected {code}\n{stdout}{stderr}"
    );
    Ok((stdout, stderr))
}

#[test]
fn an_operator_denies_explains_and_allows() -> Result<()> {
    let Some(stage) = setting().stage()? else {
        return Ok(());
    };
    let attacker = stage.lab().neighbour(Neighbour::Attacker);
    let _service = listen(stage.lab().node(), SERVICE)?;
    for (own, node, prefix) in [
        (
            Neighbour::Attacker.ipv4(),
            Neighbour::Attacker.node_ipv4(),
            format!("{}/32", Neighbour::Attacker.ipv4()),
        ),
        (
            Neighbour::Attacker.ipv6(),
            Neighbour::Attacker.node_ipv6(),
            format!("{}/128", Neighbour::Attacker.ipv6()),
        ),
    ] {
        let (own, service) = (own.to_string(), SocketAddr::new(node, SERVICE));
        connect(attacker, service)?;
        let (text, _) = run(&stage, 0, &["explain", &own])?;
        ensure!(
            text.starts_with(&format!("{own}: passes: within all limits\n")),
            "{text}"
        );

        let deny = [
            "deny",
            &own,
            "--for",
            "10m",
            "--reason",
            "ticket 4711",
            "--runtime-dir",
            "run",
        ];
        let (text, _) = run(&stage, 0, &deny)?;
        ensure!(text == format!("{prefix} is denied for 600 s\n"), "{text}");
        ensure!(
            is_answered(attacker, service)?.is_none(),
            "{own} is denied and connects"
        );
        let (text, _) = run(&stage, 0, &["explain", &own])?;
        let verdict = format!("{own}: dropped: denied-by-operator {prefix} (ticket 4711), for another ");
        ensure!(text.starts_with(&verdict), "{text}");
        let (text, _) = run(&stage, 0, &["explain", &own, "--output", "json"])?;
        let denied = serde_json::from_str::<Value>(&text)?["denied"].clone();
        ensure!(
            denied["prefix"] == prefix.as_str() && denied["reason"] == "ticket 4711",
            "{denied}"
        );
        let left = denied["endsInSeconds"].as_u64().unwrap_or_default();
        ensure!((570..=600).contains(&left), "{denied}");
        let listed = answer_of(stage.agent(), "/v1/denials")?;
        ensure!(
            listed[0]["prefix"] == prefix.as_str() && listed[1].is_null(),
            "{listed}"
        );

        let allow = ["allow", &own, "--runtime-dir", "run"];
        let (text, _) = run(&stage, 0, &allow)?;
        ensure!(text == format!("{prefix} is no longer denied\n"), "{text}");
        connect(attacker, service)?;
        let (_, error) = run(&stage, 1, &allow)?;
        ensure!(error == format!("enforcer: {prefix} is not denied\n"), "{error}");
    }
    Ok(())
}

#[test]
fn status_says_how_things_stand() -> Result<()> {
    let Some(stage) = setting().stage()? else {
        return Ok(());
    };
    let (text, _) = run(&stage, 0, &["status"])?;
    for part in [
        ", ready, up ",
        "generation 1 (",
        "  to-attacker  native  tcx  node\n",
        "  to-client    native  tcx  node\n",
        "verified connections 0 of 0 identities, denied prefixes 0, revoked connections 0, sketch 1024 KiB",
        "  edge  enforce  calm ",
        "routes    orders\n",
        "services  orders\n",
    ] {
        ensure!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    let (text, _) = run(&stage, 0, &["status", "--output", "json"])?;
    let status: Value = serde_json::from_str(&text)?;
    let mut interfaces = status["kernel"]["interfaces"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    interfaces.sort_by_key(ToString::to_string);
    let hooks = |name| json!({"name": name, "xdp": "native", "tc": "tcx", "pod": false});
    ensure!(
        interfaces == [hooks("to-attacker"), hooks("to-client")],
        "{interfaces:?}"
    );
    ensure!(
        status["ready"] == true && status["generation"] == 1 && status["refused"].is_null(),
        "{status}"
    );
    ensure!(status["policies"][0]["mode"] == "enforce", "{status}");

    // Where no agent is, and where another is than the one that is asked for.
    let (text, error) = run(&stage, 1, &["status", "--admin", "127.0.0.1:9"])?;
    let expected = "enforcer: no agent answers at 127.0.0.1:9 (Connection refused (os error 111)): is it running, \
                    and is this its address (--admin)?";
    ensure!(text.is_empty() && error.starts_with(expected), "{error}");
    Ok(())
}

#[test]
fn changes_take_the_token_and_spare_the_management() -> Result<()> {
    let Some(stage) = setting().stage()? else {
        return Ok(());
    };
    let attacker = Neighbour::Attacker.ipv4().to_string();
    // By the command line.
    let deny = |address: &str, folder: &str| {
        [
            "deny",
            address,
            "--for",
            "1m",
            "--reason",
            "x",
            "--runtime-dir",
            folder,
        ]
        .map(str::to_owned)
    };
    let elsewhere = deny(&attacker, "elsewhere");
    let (_, error) = run(&stage, 1, &elsewhere.each_ref().map(String::as_str))?;
    ensure!(
        error.starts_with("enforcer: no agent answers at elsewhere/admin.sock (No such file"),
        "{error}"
    );
    let protected = Neighbour::UpstreamA.ipv4().to_string();
    let (_, error) = run(&stage, 1, &deny(&protected, "run").each_ref().map(String::as_str))?;
    ensure!(
        error.contains("is on the management list (10.203.3.0/24), which is never denied"),
        "{error}"
    );
    let (text, _) = run(
        &stage,
        0,
        &deny("10.203.2.0/23", "run").each_ref().map(String::as_str),
    )?;
    ensure!(text.contains("10.203.3.0/24 inside it still passes"), "{text}");
    let (text, _) = run(&stage, 0, &["deny", "list"])?;
    ensure!(text.starts_with("10.203.2.0/23 dropped for another "), "{text}");
    run(&stage, 0, &["allow", "10.203.2.0/23"])?;
    for wrong in ["nobody", "10.0.0.0/33"] {
        let (_, error) = run(&stage, 2, &deny(wrong, "run").each_ref().map(String::as_str))?;
        ensure!(
            error.contains("write an address, as 192.0.2.7, or a prefix"),
            "{error}"
        );
    }

    // Past it.
    let body = format!(r#"{{"prefix": "{attacker}/32", "reason": "x", "forSeconds": 60}}"#);
    let mut ask = Ask::get("/v1/denials")
        .with_header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    ask.method = Method::POST;
    ask.body = body.into();
    let status = |ask: &Ask| anyhow::Ok(stage.agent().ask(ask.clone())??.status);
    ensure!(status(&ask)? == StatusCode::UNAUTHORIZED);
    let wrong = ask.clone().with_header(TOKEN, HeaderValue::from_static("wrong"));
    ensure!(status(&wrong)? == StatusCode::UNAUTHORIZED);
    ensure!(answer_of(stage.agent(), "/v1/denials")? == json!([]));
    let token = std::fs::read_to_string(stage.workspace().path().join("run/admin.token"))?;
    let right = ask.with_header(TOKEN, HeaderValue::from_str(token.trim())?);
    ensure!(status(&right)? == StatusCode::NO_CONTENT);
    ensure!(answer_of(stage.agent(), "/v1/denials")?[0]["kind"] == "denied-by-operator");
    Ok(())
}
