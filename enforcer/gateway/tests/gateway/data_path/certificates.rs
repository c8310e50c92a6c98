//! The listener's certificate changes while connections live.

use std::{
    fs,
    num::NonZeroU64,
    os::unix::fs::symlink,
    time::{Duration, SystemTime},
};

use enforcer_gateway::{GatewayError, config::HandshakeBudget};
use enforcer_tls::config::{ClientCertificates, Unsure};
use rustls::HandshakeKind;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::data_path::support::{
    Lab, Plan,
    client::{self, Client, H1, H2},
    eventually, in_time,
    origin::Origin,
    pki::{DAY, HOST, Pki},
    policy,
};

/// The serial number of the certificate that a new connection gets.
async fn serial(lab: &Lab) -> u64 {
    serial_of(lab, HOST).await
}

/// The same, for a client that asks for `host`.
async fn serial_of(lab: &Lab, host: &'static str) -> u64 {
    let stream = client::named(lab.address, lab.pki.client_config(None, H1), host)
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
        let before = failures();
        lab.pki.write(file, content);
        let error = lab.gateway.reload_certificates().unwrap_err();
        assert!(matches!(&error, GatewayError::Tls { listener, .. } if listener.as_str() == "main"));
        assert!(error.to_string().contains(file), "{error}");
        assert_eq!(failures(), before + 1);
        assert!(lab.gateway.reload_certificates().is_err());
        assert_eq!(failures(), before + 1, "the same failure is counted once");
        assert_eq!(serial(&lab).await, 1);
        lab.pki.write(file, &good);
        lab.gateway.reload_certificates().unwrap();
    }
    assert_eq!(fs::read(lab.pki.path("server.key")).unwrap(), key);
    lab.gateway.reload_certificates().unwrap();
    let expiry = lab.metrics();
    let file = lab.pki.path("server.pem");
    let line = format!(
        r#"enforcer_certificate_expiry_seconds{{certificate="{}",listener="main",service=""}} "#,
        file.display()
    );
    assert!(expiry.contains(&line), "{expiry}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_resume_with_their_identity_until_the_trust_changes() {
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
    assert_eq!(kind().await, HandshakeKind::Resumed, "who is trusted is the same");
    // The same authority and one more.
    let mut authorities = fs::read(lab.pki.path("ca.pem")).unwrap();
    authorities.extend(Pki::new().authority_pem().as_bytes());
    lab.pki.write("ca.pem", &authorities);
    lab.gateway.reload_certificates().unwrap();
    assert_eq!(kind().await, HandshakeKind::Full);
    assert_eq!(kind().await, HandshakeKind::Resumed);
    lab.recorder.all_closed().await;
    lab.recorder.look(|seen| assert_eq!(seen.verified.len(), 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_that_a_client_asks_for_chooses_the_certificate() {
    let plan = Plan {
        certificates: vec!["server", "exact", "wild"],
        prepare: |pki| {
            pki.write_named("exact", "shop.example.org", 11);
            pki.write_named("wild", "*.example.org", 12);
        },
        ..Plan::default()
    };
    let lab = plan.start(policy::open(&[Origin::start().await.address]));
    assert_eq!(serial_of(&lab, HOST).await, 1);
    assert_eq!(serial_of(&lab, "shop.example.org").await, 11);
    assert_eq!(serial_of(&lab, "other.example.org").await, 12);
    // One that is wrong hinders none of the others.
    lab.pki.write("exact.pem", b"nonsense");
    lab.pki.write_named("wild", "*.example.org", 13);
    assert!(lab.gateway.reload_certificates().is_err());
    assert_eq!(serial_of(&lab, "shop.example.org").await, 11);
    assert_eq!(serial_of(&lab, "other.example.org").await, 13);
    // For none of the names there is the first, which the client does not take.
    let refused = client::named(lab.address, lab.pki.client_config(None, H1), "a.b.example.org").await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains(HOST), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swapped_link_is_noticed_under_connections_that_go_on() {
    let origin = Origin::start().await;
    let plan = Plan {
        certificates: vec!["data/server"],
        // As Kubernetes mounts a secret: a link to a link, of which the latter is replaced.
        prepare: |pki| {
            for (folder, serial) in [("first", 21), ("second", 22)] {
                fs::create_dir(pki.path(folder)).unwrap();
                pki.write_named(&format!("{folder}/server"), HOST, serial);
            }
            symlink("first", pki.path("..data")).unwrap();
            symlink("..data", pki.path("data")).unwrap();
        },
        ..Plan::default()
    };
    let lab = plan.start(policy::open(&[origin.address]));
    let mut old = [Client::connect(&lab, H1).await, Client::connect(&lab, H2).await];
    assert_eq!(serial(&lab).await, 21);
    symlink("second", lab.pki.path("..data_tmp")).unwrap();
    fs::rename(lab.pki.path("..data_tmp"), lab.pki.path("..data")).unwrap();
    in_time("the new certificate is served", async {
        while serial(&lab).await != 22 {
            for client in &mut old {
                assert_eq!(client.get("/").await.status, 200);
            }
        }
    })
    .await;
    for client in &mut old {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert!(
        lab.metrics()
            .contains("enforcer_certificate_reload_failures_total 0")
    );
}

/// A lab that requires certificates and looks for them in a revocation list without entries.
fn revoking(unsure: (Unsure, Unsure), prepare: fn(&Pki)) -> Plan {
    Plan {
        client_certificates: ClientCertificates::Required,
        unsure: Some(unsure),
        prepare,
        ..Plan::default()
    }
}

/// Whether a client with that serial number gets an answer.
async fn is_served(lab: &Lab, serial: u8) -> bool {
    let client = lab.pki.unusual_client("spiffe://example.com/a", |params| {
        params.serial_number = Some(vec![serial].into());
    });
    let config = lab.pki.client_config(Some(client), H1);
    match client::tls(lab.address, config).await {
        Ok(stream) => {
            let answer = Client::over(stream).await.send(client::get("/")).await;
            answer.is_ok_and(|reply| reply.status == 200)
        }
        Err(_) => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_ends_its_connections_and_opens_no_others() {
    let origin = Origin::start().await;
    let deny = (Unsure::Deny, Unsure::Deny);
    let plan = revoking(deny, |pki| pki.write_crl(&[], SystemTime::now() + DAY));
    let lab = plan.start(policy::open(&[origin.address]));
    let connect = async |serial: u8, alpn: &[&[u8]]| {
        let client = lab.pki.unusual_client("spiffe://example.com/a", |params| {
            params.serial_number = Some(vec![serial].into());
        });
        let config = lab.pki.client_config(Some(client), alpn);
        let mut client = Client::over(client::tls(lab.address, config.clone()).await.unwrap()).await;
        assert_eq!(client.get("/").await.status, 200);
        (client, config)
    };
    let (mut good, _) = connect(1, H2).await;
    let (mut bad_h1, bad_config) = connect(2, H1).await;
    let (mut bad_h2, _) = connect(2, H2).await;
    lab.pki.write_crl(&[2], SystemTime::now() + DAY);
    // Nobody tells the gateway: it sees the file.
    in_time("both are told to be closed", async {
        while lab.recorder.look(|seen| seen.closed.len()) < 2 {
            assert_eq!(good.get("/").await.status, 200);
        }
    })
    .await;
    assert!(bad_h1.send(client::get("/")).await.is_err());
    assert!(bad_h2.send(client::get("/")).await.is_err());
    assert_eq!(good.get("/").await.status, 200);
    // Its ticket resumes nothing, and a full handshake fails.
    let again = match client::tls(lab.address, bad_config).await {
        Ok(stream) => {
            assert_ne!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
            Client::over(stream).await.send(client::get("/")).await.is_ok()
        }
        Err(_) => false,
    };
    assert!(!again);
    assert!(!is_served(&lab, 2).await && is_served(&lab, 3).await);
    assert!(lab.metrics().contains("enforcer_connections_revoked_total 2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_says_what_becomes_of_certificates_that_may_be_revoked() {
    use Unsure::{Allow, Deny};
    let origin = Origin::start().await;
    let expired: fn(&Pki) = |pki| pki.write_crl(&[2], SystemTime::now() - DAY);
    let others: fn(&Pki) = |pki| {
        let other = Pki::of("another");
        other.write_crl(&[2], SystemTime::now() + DAY);
        pki.write("crl.pem", &fs::read(other.path("crl.pem")).unwrap());
    };
    for (what, prepare, unsure, served) in [
        ("an expired list", expired, (Deny, Deny), [false, false]),
        ("an expired list", expired, (Deny, Allow), [true, false]),
        ("no list of the issuer", others, (Deny, Deny), [false, false]),
        ("no list of the issuer", others, (Allow, Deny), [true, true]),
    ] {
        let lab = revoking(unsure, prepare).start(policy::open(&[origin.address]));
        let found = [is_served(&lab, 1).await, is_served(&lab, 2).await];
        assert_eq!(found, served, "{what}, {unsure:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_or_missing_list_leaves_the_last_one_in_force() {
    let origin = Origin::start().await;
    let deny = (Unsure::Deny, Unsure::Deny);
    let plan = revoking(deny, |pki| pki.write_crl(&[2], SystemTime::now() + DAY));
    let lab = plan.start(policy::open(&[origin.address]));
    lab.pki.write("crl.pem", b"nonsense");
    let error = lab.gateway.reload_certificates().unwrap_err().to_string();
    assert!(error.contains("crl.pem"), "{error}");
    assert!(!is_served(&lab, 2).await && is_served(&lab, 1).await);
    fs::remove_file(lab.pki.path("crl.pem")).unwrap();
    assert!(lab.gateway.reload_certificates().is_err());
    assert!(!is_served(&lab, 2).await && is_served(&lab, 1).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_expires_serves_no_further_request() {
    let origin = Origin::start().await;
    let plan = Plan {
        client_certificates: ClientCertificates::Required,
        ..Plan::default()
    };
    let lab = plan.start(policy::open(&[origin.address]));
    // Long enough for a slow machine's handshakes.
    let not_after = SystemTime::now() + Duration::from_secs(8);
    let connect = async |alpn: &[&[u8]]| {
        let client = lab.pki.unusual_client("spiffe://example.com/a", |params| {
            params.not_after = not_after.into();
        });
        let config = lab.pki.client_config(Some(client), alpn);
        let mut client = Client::over(client::tls(lab.address, config).await.unwrap()).await;
        assert_eq!(client.get("/").await.status, 200);
        client
    };
    for client in &mut [connect(H1).await, connect(H2).await] {
        in_time("no more answers", async {
            while client
                .send(client::get("/"))
                .await
                .is_ok_and(|reply| reply.status == 200)
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        // A certificate's times are whole seconds.
        assert!(SystemTime::now() + Duration::from_secs(1) >= not_after);
    }
    lab.recorder.all_closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_has_a_budget_of_handshakes_and_a_share_of_connections() {
    let origin = Origin::start().await;
    let plan = Plan {
        handshakes: Some(HandshakeBudget {
            rate: "1/h".parse().unwrap(),
            burst: NonZeroU64::new(3).unwrap(),
        }),
        ..Plan::default()
    };
    let lab = plan.start(policy::open(&[origin.address]));
    for _ in 0..3 {
        assert_eq!(Client::connect(&lab, H1).await.get("/").await.status, 200);
    }
    let refused = client::tls(lab.address, lab.pki.client_config(None, H1)).await;
    assert!(refused.is_err());
    assert!(
        lab.metrics()
            .contains(r#"enforcer_handshakes_total{listener="main",result="source_budget"} 1"#)
    );

    let plan = Plan {
        workers: 1,
        max_per_source: 2,
        ..Plan::default()
    };
    let lab = plan.start(policy::open(&[origin.address]));
    let mut held = [Client::connect(&lab, H1).await, Client::connect(&lab, H2).await];
    let refused = client::tls(lab.address, lab.pki.client_config(None, H1)).await;
    assert!(refused.is_err());
    assert!(
        lab.metrics()
            .contains(r#"enforcer_handshakes_total{listener="main",result="source_share"} 1"#)
    );
    for client in &mut held {
        assert_eq!(client.get("/").await.status, 200);
    }
    drop(held);
    eventually("the share is free again", async || {
        client::tls(lab.address, lab.pki.client_config(None, H1))
            .await
            .is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listeners_own_budget_of_handshakes_goes_before_the_common_one() {
    let origin = Origin::start().await;
    let budget = |burst| HandshakeBudget {
        rate: "1/h".parse().unwrap(),
        burst: NonZeroU64::new(burst).unwrap(),
    };
    let plan = Plan {
        handshakes: Some(budget(100)),
        own_budget: Some(budget(1)),
        ..Plan::default()
    };
    let lab = plan.start(policy::open(&[origin.address]));
    assert_eq!(Client::connect(&lab, H1).await.get("/").await.status, 200);
    let refused = client::tls(lab.address, lab.pki.client_config(None, H1)).await;
    assert!(refused.is_err());
    let line = r#"enforcer_handshakes_total{listener="main",result="source_budget"} 1"#;
    assert!(lab.metrics().contains(line));
}
