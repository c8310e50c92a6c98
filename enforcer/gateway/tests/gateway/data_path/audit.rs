//! What the audit log says of requests.

use std::{
    fs,
    num::NonZeroU32,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use enforcer_telemetry::audit::config::{AuditConfig, Destination};
use enforcer_tls::config::{ClientCertificates, Unsure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::data_path::{
    authorization::{bearer, written},
    support::{
        Plan,
        client::{self, Client, H1, H2},
        corp::Corp,
        eventually,
        origin::Origin,
        pki, policy,
    },
};

pub(crate) fn config(file: PathBuf, sample: u32, per_second: u32) -> AuditConfig {
    AuditConfig {
        to: Destination::File {
            path: file,
            max_size: 1 << 20,
            keep: 1,
        },
        sample,
        per_second: NonZeroU32::new(per_second).unwrap(),
    }
}

pub(crate) fn records(file: &PathBuf) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_recorded_with_who_what_and_why() {
    let (origin, corp, directory) = (Origin::start().await, Corp::new(), TempDir::new().unwrap());
    let set = written(
        &corp,
        origin.address,
        "leeway: 5s",
        &[
            "match: {path: {prefix: /try}}, mode: shadow, require: {token: {issuer: corp, roles: admin}}",
            "require: {token: {issuer: corp, claims: {a: 1}}}",
        ],
    );
    let file = directory.path().join("audit.log");
    let plan = Plan {
        audit: Some(config(file.clone(), 0, 1000)),
        ..Plan::default()
    };
    let mut lab = plan.start(set);
    let mut client = Client::connect(&lab, H2).await;
    let mut request = client::get("/secret?password=hunter2");
    for (name, value) in [
        ("authorization", format!("Bearer {}", corp.token("x"))),
        (
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned(),
        ),
        ("x-request-id", "a\"b".to_owned()),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    assert_eq!(client.send(request).await.unwrap().status, 403);
    let good = corp.token_with(&json!({"a": 1}));
    assert_eq!(bearer(&mut client, "/fine", &good).await.status, 200);
    assert_eq!(bearer(&mut client, "/try", &good).await.status, 200);
    let mut old = Client::connect(&lab, H1).await;
    assert_eq!(old.get("/nothing").await.status, 401);
    lab.end_audit();

    let found = records(&file);
    assert_eq!(found.len(), 3, "what was let through is not recorded: {found:?}");
    let [denied, tried, missing] = &found[..] else {
        unreachable!()
    };
    for (name, value) in [
        ("event", json!("request")),
        ("verdict", json!("forbidden")),
        ("reason", json!("claims")),
        ("status", json!(403)),
        ("source", json!("127.0.0.1")),
        ("listener", json!("main")),
        ("route", json!("main")),
        ("rule", json!(1)),
        ("service", json!("orders")),
        ("method", json!("GET")),
        ("host", json!("api.example.com")),
        ("path", json!("/secret")),
        ("issuer", json!("corp")),
        ("subject", json!("alice")),
        ("client", json!("web")),
        ("trace", json!("4bf92f3577b34da6a3ce929d0e0e4736")),
        ("requestId", json!("a\"b")),
        ("certificate", Value::Null),
        ("shadow", Value::Null),
    ] {
        assert_eq!(denied[name], value, "{name}: {denied}");
    }
    assert!(denied["detail"].as_str().unwrap().contains("lacks a claim"));
    assert!(!fs::read_to_string(&file).unwrap().contains("hunter2"));
    assert_eq!(
        (
            &tried["verdict"],
            &tried["shadow"],
            &tried["status"],
            &tried["reason"]
        ),
        (&json!("forbidden"), &json!(true), &json!(200), &json!("roles"))
    );
    assert_eq!(
        (&missing["verdict"], &missing["host"], &missing["subject"]),
        (&json!("unauthenticated"), &json!("api.example.com"), &Value::Null)
    );
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_fail_are_recorded_with_why() {
    let (origin, directory) = (Origin::start().await, TempDir::new().unwrap());
    let file = directory.path().join("audit.log");
    let plan = Plan {
        client_certificates: ClientCertificates::Required,
        unsure: Some((Unsure::Deny, Unsure::Deny)),
        prepare: |pki| pki.write_crl(&[7], SystemTime::now() + Duration::from_secs(86_400)),
        audit: Some(config(file.clone(), 1, 1000)),
        ..Plan::default()
    };
    let mut lab = plan.start(policy::open(&[origin.address]));
    let unusual =
        |change: fn(&mut rcgen::CertificateParams)| lab.pki.unusual_client("spiffe://example.com/a", change);
    let expired = unusual(|params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let revoked = unusual(|params| params.serial_number = Some(vec![7].into()));
    let cases = [
        (None, "certificate_missing"),
        (
            Some(pki::stranger("spiffe://example.com/a")),
            "certificate_unknown_authority",
        ),
        (Some(expired), "certificate_expired"),
        (Some(revoked), "certificate_revoked"),
    ];
    let mut expected = Vec::new();
    for (certificate, reason) in cases {
        let stream = client::tls(lab.address, lab.pki.client_config(certificate, H1)).await;
        expected.push(reason);
        let line = r#"enforcer_handshakes_total{listener="main",result="certificate"} "#;
        let line = format!("{line}{}\n", expected.len());
        // With TLS 1.3 the client hears of it only behind its own handshake.
        eventually(reason, async || lab.metrics().contains(&line)).await;
        drop(stream);
    }
    let good = lab.pki.client("spiffe://example.com/a");
    let stream = client::tls(lab.address, lab.pki.client_config(Some(good), H1)).await;
    assert_eq!(Client::over(stream.unwrap()).await.get("/").await.status, 200);
    lab.end_audit();
    let found = records(&file);
    let (request, failed) = found.split_last().unwrap();
    let reasons: Vec<_> = failed.iter().map(|record| record["reason"].clone()).collect();
    assert_eq!(reasons, expected, "{found:?}");
    for record in failed {
        assert_eq!(record["event"], "connection");
        assert_eq!(record["result"], "certificate");
        assert_eq!(record["source"], "127.0.0.1");
        assert_eq!(record["listener"], "main");
        assert!(
            record["detail"]
                .as_str()
                .unwrap()
                .contains("TLS handshake failed"),
            "{record}"
        );
    }
    assert_eq!(
        (&request["event"], &request["class"]),
        (&json!("request"), &json!("verified"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_and_floods() {
    let (origin, corp, directory) = (Origin::start().await, Corp::new(), TempDir::new().unwrap());
    let set = || {
        let rules = ["match: {path: {prefix: /open}}, require: {anonymous: true}"];
        written(&corp, origin.address, "leeway: 5s", &rules)
    };
    let all = directory.path().join("all.log");
    let plan = Plan {
        audit: Some(config(all.clone(), 1, 1000)),
        ..Plan::default()
    };
    let mut lab = plan.start(set());
    let mut client = Client::connect(&lab, H1).await;
    assert_eq!(client.get("/open").await.status, 200);
    lab.end_audit();
    assert_eq!(
        records(&all)[0]["verdict"],
        "allowed",
        "each is a sample of one in one"
    );

    let few = directory.path().join("few.log");
    let plan = Plan {
        audit: Some(config(few.clone(), 0, 1)),
        ..Plan::default()
    };
    let mut lab = plan.start(set());
    let mut client = Client::connect(&lab, H1).await;
    // More than there are seconds in which they are sent.
    for _ in 0..200 {
        assert_eq!(client.get("/elsewhere").await.status, 404);
    }
    lab.end_audit();
    let written = records(&few).len();
    assert!((1..200).contains(&written), "{written}");
    let line = format!(
        r#"enforcer_audit_records_total{{result="over_rate"}} {}"#,
        200 - written
    );
    eventually(&line, async || lab.metrics().lines().any(|each| each == line)).await;
}
