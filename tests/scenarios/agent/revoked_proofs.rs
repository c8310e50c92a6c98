//! Proofs that are revoked end what rests on them, at once, and take the kernel's class of verified connections with them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderName, HeaderValue, StatusCode};
use lab::{
    client::{Ask, Client, Protocol},
    demo::setup::{CLIENT_ID, Stage},
    topology::Neighbour,
};
use serde_json::Value;

use crate::{
    ending::{PATIENCE, families, revoke, run, setting},
    setting::{
        BY_TOKEN, Caller, GATEWAY, OPEN, REPORTS_PER_MINUTE, Setting, gateway, good_token, listener,
        put_in_force,
    },
};

/// With an API key.
const BY_KEY: &str = "/v1/by-key";

/// Something that a client proves itself by.
struct Proof {
    asks: Ask,
    /// Whether the client has a certificate.
    by_certificate: bool,
    /// As `enforcer revoke` takes it.
    named: Vec<String>,
    /// As `enforcer revoke list` shows it.
    listed: String,
}

/// A token by its `jti`, its subject and its client, an API key, and a certificate.
fn proofs(stage: &Stage) -> Result<Vec<Proof>> {
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    let token = good_token(stage)?;
    let by_token = |kind: &str, id: &str| -> Result<_> {
        Ok(Proof {
            asks: Ask::get(BY_TOKEN).with_token(&token)?,
            by_certificate: false,
            named: words(&[kind, id, "--issuer", "lab"]),
            listed: format!("{kind} {id} of lab"),
        })
    };
    let claims = token.split('.').nth(1).context("a token has three parts")?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims)?)?;
    let jti = claims["jti"].as_str().context("the issuer gives tokens a jti")?;
    let (key, id) = api_key(stage)?;
    let field = HeaderName::from_static("x-api-key");
    let leaf = &stage.identity().chain()[0];
    let bytes = digest(&SHA256, leaf);
    let fingerprint: String = bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(vec![
        by_token("token", jti)?,
        by_token("subject", CLIENT_ID)?,
        by_token("client", CLIENT_ID)?,
        Proof {
            asks: Ask::get(BY_KEY).with_header(field, HeaderValue::from_str(&key)?),
            by_certificate: false,
            named: words(&["api-key", &id]),
            listed: format!("api-key {id}"),
        },
        Proof {
            asks: Ask::get(OPEN),
            by_certificate: true,
            named: words(&["certificate", &fingerprint]),
            listed: format!("certificate sha256:{fingerprint}"),
        },
    ])
}

/// Makes a key that opens [`BY_KEY`]; gives its id too.
fn api_key(stage: &Stage) -> Result<(String, String)> {
    let made = ["api-key", "new", "--owner", "partner", "--output", "json"];
    let (text, _) = run(stage, 0, &made)?;
    let made: Value = serde_json::from_str(&text)?;
    let text = |value: &Value| value.as_str().map(str::to_owned).context("a text");
    let key = text(&made["key"])?;
    let (id, hash) = (text(&made["entry"]["id"])?, text(&made["entry"]["hash"])?);
    let usual = gateway(Setting::default().health, REPORTS_PER_MINUTE);
    let yaml = format!(
        "{usual}    - match: {{path: {{prefix: {BY_KEY}}}, methods: [GET]}}
      require: {{apiKey: {{keys: partners}}}}
      service: orders
---
apiVersion: enforcer.dev/v1
kind: ApiKeys
metadata: {{name: partners}}
spec: {{keys: [{{id: {id}, hash: \"{hash}\", owner: partner}}]}}
"
    );
    put_in_force(stage, GATEWAY, &yaml)?;
    Ok((key, id))
}

#[test]
fn a_revoked_proof_ends_what_rests_on_it() -> Result<()> {
    let Some(stage) = setting().stage()? else {
        return Ok(());
    };
    let caller = Caller::at(stage.lab().neighbour(Neighbour::Client))?;
    for proof in proofs(&stage)? {
        for (own, node) in families() {
            for protocol in [Protocol::Http1, Protocol::Http2] {
                let what = format!("{}, {protocol:?}, {own}", proof.named[0]);
                let identity = proof.by_certificate.then(|| stage.identity());
                let client = stage
                    .client_of(listener(node), identity, protocol)?
                    .with_patience(PATIENCE);
                let [told, unclassed] =
                    ends_at_once(&stage, &caller, &client, &proof).with_context(|| what.clone())?;
                println!("{what}: ended after {told:?}, no class in the kernel after {unclassed:?}");
            }
        }
    }
    Ok(())
}

/// A connection that rests on the proof ends when that is revoked, and nothing else is taken from its source. Gives the
/// times until the command was done and until the kernel had no class for it.
fn ends_at_once(stage: &Stage, caller: &Caller, client: &Client, proof: &Proof) -> Result<[Duration; 2]> {
    let verified = |count: f64| {
        stage.agent().wait_for("the verified connections", |metrics| {
            metrics
                .sum("enforcer_verified_flows", &[])
                .total_cmp(&count)
                .is_eq()
        })
    };
    let named: Vec<&str> = proof.named.iter().map(String::as_str).collect();
    let (open, answer) = caller.send(caller.open(client)?, &proof.asks)?;
    ensure!(answer.status == StatusCode::OK, "{}", answer.status);
    verified(1.0)?;
    let begins = Instant::now();
    let revoked = revoke(stage, &named)?;
    let told = begins.elapsed();
    verified(0.0)?;
    let unclassed = begins.elapsed();
    ensure!(
        revoked["gatewayConnections"] == 1
            && revoked["droppedConnections"] == 1
            && revoked["refused"] == true
            && revoked["denied"] == false,
        "{revoked}"
    );
    ensure!(unclassed < PATIENCE * 2, "{unclassed:?}");
    ensure!(caller.send(open, &proof.asks).is_err());
    // It may connect, and is refused there.
    let (_, answer) = caller.send(caller.open(client)?, &proof.asks)?;
    ensure!(answer.status == StatusCode::UNAUTHORIZED, "{}", answer.status);
    let (listed, _) = run(stage, 0, &["revoke", "list", "--runtime-dir", "run"])?;
    ensure!(
        listed.starts_with(&format!("{}, until ", proof.listed)) && listed.ends_with("by operator: test\n"),
        "{listed}"
    );
    let undo = [&["revoke"], &named[..], &["--undo", "--runtime-dir", "run"]].concat();
    run(stage, 0, &undo)?;
    let (_, said) = run(stage, 1, &undo)?;
    ensure!(said.contains("is not revoked by an operator"), "{said}");
    let (_, answer) = caller.send(caller.open(client)?, &proof.asks)?;
    ensure!(answer.status == StatusCode::OK, "{}", answer.status);
    verified(0.0)?;
    Ok([told, unclassed])
}

#[test]
fn what_is_no_proof_cannot_be_revoked() -> Result<()> {
    let Some(stage) = setting().stage()? else {
        return Ok(());
    };
    let rest = ["--for", "1m", "--reason", "test", "--runtime-dir", "run"];
    for (code, proof, expected) in [
        (
            1,
            &["token", "1", "--issuer", "nobody"][..],
            "the policies have no issuer `nobody`",
        ),
        (1, &["certificate", "abcd"], "64 hexadecimal digits"),
        (2, &["certificate"], "required"),
        (2, &["token", "1"], "--issuer"),
    ] {
        let (_, said) = run(&stage, code, &[&["revoke"], proof, &rest].concat())?;
        ensure!(said.contains(expected), "{proof:?}: {said}");
    }
    Ok(())
}
