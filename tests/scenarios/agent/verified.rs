//! The gateway tells the kernel who is behind a connection, for as long as it lasts.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use http::StatusCode;
use lab::{
    client::{Ask, Protocol},
    demo::{
        policies::CLIENT_SPIFFE,
        setup::{CLIENT_ID, Stage},
    },
    topology::Neighbour,
};

use crate::{
    setting::{
        BAD_TOKEN, BY_TOKEN, Caller, OPEN, ORDERS, Setting, good_token, json, listener, packet_policy,
    },
    traffic::packets,
};

fn setting() -> Setting {
    Setting {
        certificates: "optional",
        edge: packet_policy(
            "edge",
            "interfaces: [to-client]
  ports: [tcp/8443]
  limits:
    - {name: per-source, per: source, rate: 10000/s, burst: 20000}
  verified: {rate: 20000/s, burst: 40000}",
        ),
        ..Setting::default()
    }
}

/// How many connections of how many identities the kernel knows.
fn expect_verified(stage: &Stage, flows: f64, identities: f64) -> Result<()> {
    let what = format!("{flows} verified connections of {identities} identities");
    stage.agent().wait_for(&what, |metrics| {
        metrics.sum("enforcer_verified_flows", &[]) == flows
            && metrics.sum("enforcer_verified_identities", &[]) == identities
    })?;
    Ok(())
}

/// `expected`: whom `explain` names at the client's address.
fn expect_named(stage: &Stage, address: IpAddr, expected: &[&str]) -> Result<()> {
    let explanation = json(stage.agent(), &format!("/v1/explain?address={address}"))?;
    ensure!(
        explanation["verified"] == serde_json::json!(expected),
        "{explanation}"
    );
    Ok(())
}

#[test]
fn connections_are_verified_from_their_first_proof_to_their_end() -> Result<()> {
    let Some(stage) = setting().stage()? else {
        return Ok(());
    };
    let caller = Caller::at(stage.lab().neighbour(Neighbour::Client))?;
    let token = good_token(&stage)?;
    let (certificate, subject) = (
        format!("certificate {CLIENT_SPIFFE}"),
        format!("token {CLIENT_ID} of lab"),
    );
    for (node, own) in [
        (Neighbour::Client.node_ipv4(), Neighbour::Client.ipv4()),
        (Neighbour::Client.node_ipv6(), Neighbour::Client.ipv6()),
    ] {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let entered = stage
                .agent()
                .metrics()?
                .sum("enforcer_verified_flows_entered_total", &[]);
            // A certificate is a proof by itself.
            let client = stage.client_of(listener(node), Some(stage.identity()), protocol)?;
            let (by_certificate, answer) = caller.send(caller.open(&client)?, &Ask::get(OPEN))?;
            ensure!(answer.status == StatusCode::OK);
            expect_verified(&stage, 1.0, 1.0)?;
            expect_named(&stage, own, &[&certificate])?;
            let (by_certificate, answer) =
                caller.send(by_certificate, &Ask::get(ORDERS).with_token(&token)?)?;
            ensure!(answer.status == StatusCode::OK);
            expect_verified(&stage, 1.0, 1.0)?;
            drop(by_certificate);
            expect_verified(&stage, 0.0, 0.0)?;

            // Without one, a token that does not hold is no proof, and one that holds is.
            let client = stage.client_of(listener(node), None, protocol)?;
            let bad = Ask::get(BY_TOKEN).with_token(BAD_TOKEN)?;
            let (by_token, answer) = caller.send(caller.open(&client)?, &bad)?;
            ensure!(answer.status == StatusCode::UNAUTHORIZED);
            expect_named(&stage, own, &[])?;
            let (by_token, answer) = caller.send(by_token, &Ask::get(BY_TOKEN).with_token(&token)?)?;
            ensure!(answer.status == StatusCode::OK);
            expect_verified(&stage, 1.0, 1.0)?;
            expect_named(&stage, own, &[&subject])?;
            drop(by_token);
            expect_verified(&stage, 0.0, 0.0)?;
            expect_named(&stage, own, &[])?;
            let metrics = stage.agent().metrics()?;
            ensure!(metrics.sum("enforcer_verified_flows_entered_total", &[]) == entered + 2.0);
        }
    }
    ensure!(packets(stage.agent(), &[("policy", "edge"), ("reason", "verified")])? > 0);
    Ok(())
}

/// The same identity over several connections has one budget.
#[test]
fn connections_of_one_identity_are_counted_as_one() -> Result<()> {
    let Some(stage) = setting().stage()? else {
        return Ok(());
    };
    let caller = Caller::at(stage.lab().neighbour(Neighbour::Client))?;
    let node = listener(Neighbour::Client.node_ipv4());
    let by_certificate = stage.client_of(node, Some(stage.identity()), Protocol::Http1)?;
    let by_token = stage.client_of(node, None, Protocol::Http1)?;
    let ask = Ask::get(BY_TOKEN).with_token(&good_token(&stage)?)?;
    let mut open = Vec::new();
    for client in [&by_certificate, &by_certificate, &by_certificate, &by_token] {
        open.push(caller.send(caller.open(client)?, &ask)?.0);
    }
    expect_verified(&stage, 4.0, 2.0)?;
    open.truncate(3);
    expect_verified(&stage, 3.0, 1.0)?;
    open.clear();
    expect_verified(&stage, 0.0, 0.0)
}
