//! The listener's certificate changes while connections live.

use std::fs;

use enforcer::gateway::{GatewayError, config::ClientCertificates};
use rustls::HandshakeKind;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::support::{
    Lab, Plan,
    client::{self, Client, H1, H2},
    eventually,
    origin::Origin,
    policy,
};

/// The serial number of the certificate that a new connection gets.
async fn serial(lab: &Lab) -> u64 {
    let stream = client::tls(lab.address, lab.pki.client_config(None, H1))
        .await
        .unwrap();
    let leaf = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
    leaf.serial.iter_u64_digits().next().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn new_files_serve_new_connections_and_end_no_old_one() {
    let origin = Origin::start().await;
    let lab = Plan::default().start(policy::open(&[origin.address]));
    let mut old = [Client::connect(&lab, H1).await, Client::connect(&lab, H2).await];
    assert_eq!(serial(&lab).await, 1);
    lab.pki.write_server(2);
    lab.gateway.reload_certificates().unwrap();
    assert_eq!(serial(&lab).await, 2);
    for client in &mut old {
        assert_eq!(client.get("/").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_files_are_noticed() {
    let lab = Plan::default().start(policy::open(&[Origin::start().await.address]));
    lab.pki.write_server(7);
    eventually("the new certificate is served", async || serial(&lab).await == 7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_files_leave_the_old_ones_in_use() {
    let lab = Plan::default().start(policy::open(&[Origin::start().await.address]));
    let failures = || {
        let metrics = lab.metrics();
        let line = metrics
            .lines()
            .find(|line| line.starts_with("enforcer_certificate_reload_failures_total"));
        line.unwrap().rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(failures(), 0);
    let key = fs::read(lab.pki.path("server.key")).unwrap();
    for (file, content) in [
        ("server.pem", &b"nonsense"[..]),
        ("server.pem", &fs::read(lab.pki.path("ca.pem")).unwrap()),
        ("server.key", b""),
    ] {
        let good = fs::read(lab.pki.path(file)).unwrap();
        fs::write(lab.pki.path(file), content).unwrap();
        let before = failures();
        let error = lab.gateway.reload_certificates().unwrap_err();
        assert!(matches!(&error, GatewayError::Tls { listener, .. } if listener.as_str() == "main"));
        assert!(error.to_string().contains(file), "{error}");
        assert!(failures() > before);
        assert_eq!(serial(&lab).await, 1);
        fs::write(lab.pki.path(file), good).unwrap();
    }
    assert_eq!(fs::read(lab.pki.path("server.key")).unwrap(), key);
    lab.gateway.reload_certificates().unwrap();
    let expiry = lab.metrics();
    assert!(
        expiry.contains(r#"enforcer_certificate_expiry_seconds{listener="main"} "#),
        "{expiry}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_resume_with_their_identity_until_the_files_change() {
    let origin = Origin::start().await;
    let mut rule = policy::open_rule();
    rule.require = policy::certificate(&[]);
    let plan = Plan {
        client_certificates: ClientCertificates::Required,
        ..Plan::default()
    };
    let lab = plan.start(policy::set(vec![rule], policy::service(&[origin.address])));
    let config = lab
        .pki
        .client_config(Some(lab.pki.client("spiffe://example.com/a")), H1);
    let kind = async || {
        let stream = client::tls(lab.address, config.clone()).await.unwrap();
        let kind = stream.get_ref().1.handshake_kind().unwrap();
        // The ticket comes with the first response.
        assert_eq!(Client::over(stream).await.get("/").await.status, 200);
        assert_eq!(
            origin.last().headers["x-enforcer-identity"],
            "spiffe://example.com/a"
        );
        kind
    };
    assert_eq!(kind().await, HandshakeKind::Full);
    assert_eq!(kind().await, HandshakeKind::Resumed);
    lab.pki.write_server(2);
    lab.gateway.reload_certificates().unwrap();
    assert_eq!(kind().await, HandshakeKind::Full);
    lab.recorder.all_closed().await;
    lab.recorder.look(|seen| assert_eq!(seen.verified.len(), 3));
}
