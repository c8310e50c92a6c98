//! What strangers can take from others, and what they are blamed for.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use enforcer_gateway::{config::Timeouts, signal::Verdict};
use enforcer_model::{PolicySet, Requirement, TokenContent, TokenRequirement};
use enforcer_tls::config::ClientCertificates;
use http::HeaderValue;
use rustls_pki_types::ServerName;
use serde_json::json;
use tokio::{
    io::AsyncReadExt,
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::TlsConnector;

use crate::data_path::support::{
    Lab, PATIENCE, Plan,
    client::{self, Client, H1, H2, Reply},
    corp::{Corp, SigningKey},
    eventually,
    origin::Origin,
    pki::{self, HOST},
    policy,
};

const ORDERS: &str = "spiffe://example.com/ns/shop/sa/orders";

fn set(corp: &Corp, origin: &Origin) -> PolicySet {
    let mut rule = policy::open_rule();
    rule.require = Requirement::Proof {
        mtls: None,
        token: Some(TokenRequirement {
            issuer: policy::name("corp"),
            scopes: Vec::new(),
            content: TokenContent::default(),
        }),
        api_key: None,
    };
    let mut set = policy::set(vec![rule], policy::service(&[origin.address]));
    set.issuers = vec![Arc::new(corp.issuer())];
    set
}

async fn bearer(client: &mut Client, token: &str) -> Reply {
    let mut request = client::get("/");
    let value = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
    request.headers_mut().insert("authorization", value);
    client.send(request).await.unwrap()
}

/// A TCP connection from that address of this machine.
async fn from(lab: &Lab, own: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let own: SocketAddr = format!("{own}:0").parse().unwrap();
    socket.bind(own).unwrap();
    socket.connect(lab.address).await.unwrap()
}

async fn client_from(lab: &Lab, own: &str) -> Client {
    let stream = TlsConnector::from(lab.pki.client_config(None, H1))
        .connect(ServerName::try_from(HOST).unwrap(), from(lab, own).await)
        .await
        .unwrap();
    Client::over(stream).await
}

fn failed(lab: &Lab) -> usize {
    lab.recorder.look(|seen| seen.failed.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn h3_only_forged_tokens_are_blamed() {
    let (origin, corp) = (Origin::start().await, Corp::new());
    let lab = Plan::default().start(set(&corp, &origin));
    let mut client = Client::connect(&lab, H2).await;
    let good = corp.token("orders:read");
    assert_eq!(bearer(&mut client, &good).await.status, 200);
    for (what, claims) in [
        ("expired", json!({"exp": 1_000})),
        ("not valid yet", json!({"nbf": 32_503_680_000_u64})),
        ("for another audience", json!({"aud": "billing"})),
        ("of another issuer", json!({"iss": "https://staging.example.com"})),
        ("without a subject", json!({"sub": ""})),
        ("bound to something unknown", json!({"cnf": {"x": "y"}})),
    ] {
        let reply = bearer(&mut client, &corp.token_with(&claims)).await;
        assert_eq!(reply.status, 401, "{what}");
        assert_eq!(failed(&lab), 0, "a token {what} is not forged");
    }
    let rotated = SigningKey::new("old").token_with(&json!({"exp": 1_000}));
    assert_eq!(bearer(&mut client, &rotated).await.status, 401);
    let long = format!("{}.b.c", "a".repeat(9_000));
    assert_eq!(bearer(&mut client, &long).await.status, 401);
    assert_eq!(client.get("/").await.status, 401);
    let of_no_key = SigningKey::new("mine").token_with(&json!({}));
    for token in ["a.b.c", "opaque", &of_no_key] {
        assert_eq!(bearer(&mut client, token).await.status, 401);
    }
    assert_eq!(
        failed(&lab),
        0,
        "an old key, a long token, none at all, an opaque one, a key that the issuer does not have (any more)"
    );

    let other_signature = {
        let other = corp.token_with(&json!({"sub": "bob"}));
        let (message, _) = good.rsplit_once('.').unwrap();
        format!("{message}.{}", other.rsplit_once('.').unwrap().1)
    };
    let same_name = SigningKey::new("1").token_with(&json!({}));
    for (before, token) in [&other_signature, &same_name].into_iter().enumerate() {
        assert_eq!(bearer(&mut client, token).await.status, 401);
        assert_eq!(failed(&lab), before + 1, "{token}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn h3_only_forged_certificates_are_blamed() {
    let origin = Origin::start().await;
    let plan = Plan {
        client_certificates: ClientCertificates::Required,
        ..Plan::default()
    };
    let lab = plan.start(policy::open(&[origin.address]));
    let ask = async |certificate: pki::Client| {
        let config = lab.pki.client_config(Some(certificate), H1);
        let stream = client::tls(lab.address, config).await.ok()?;
        let mut client = Client::try_over(stream).await.ok()?;
        client.send(client::get("/")).await.ok()
    };
    let expired = lab.pki.unusual_client(ORDERS, |params| {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    });
    assert!(ask(expired).await.is_none());
    let refused = r#"enforcer_handshakes_total{listener="main",result="certificate"} "#;
    let count = |count: usize| format!("{refused}{count}");
    eventually("it is refused", async || lab.metrics().contains(&count(1))).await;
    assert_eq!(failed(&lab), 0, "a certificate that has expired is not forged");
    assert!(ask(pki::stranger(ORDERS)).await.is_none());
    eventually("one of nobody is blamed", async || failed(&lab) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l6_refused_credentials_have_a_rate_that_does_not_concern_good_ones() {
    let (origin, corp) = (Origin::start().await, Corp::new());
    let plan = Plan {
        attempts: Some("5/h".parse().unwrap()),
        ..Plan::default()
    };
    let lab = plan.start(set(&corp, &origin));
    // Somebody there is verified, and stays so.
    let mut honest = Client::connect(&lab, H1).await;
    let good = corp.token("orders:read");
    assert_eq!(bearer(&mut honest, &good).await.status, 200);
    let mut client = Client::connect(&lab, H1).await;
    let expired = corp.token_with(&json!({"exp": 1_000}));
    for _ in 0..3 {
        assert_eq!(bearer(&mut client, &expired).await.status, 401);
    }
    let forged = SigningKey::new("1").token_with(&json!({}));
    for _ in 0..2 {
        assert_eq!(bearer(&mut client, &forged).await.status, 401);
    }
    for token in [forged.as_str(), expired.as_str()] {
        let reply = bearer(&mut client, token).await;
        assert_eq!(reply.status, 429);
        assert_eq!(reply.headers["retry-after"], "1");
    }
    assert_eq!(failed(&lab), 2, "what is not looked at is nobody's fault");
    lab.recorder
        .look(|seen| assert_eq!(seen.verdicts.last(), Some(&(Verdict::Limited, 429))));
    assert!(
        lab.metrics()
            .contains("enforcer_authentication_attempts_refused_total 2")
    );
    assert_eq!(
        bearer(&mut honest, &good).await.status,
        200,
        "one that is known to be good"
    );
    let mut other = client_from(&lab, "127.0.0.2").await;
    assert_eq!(bearer(&mut other, "a.b.c").await.status, 401, "another source");
}

#[tokio::test(flavor = "multi_thread")]
async fn m7_when_there_is_no_room_the_longest_idle_stranger_goes() {
    let (origin, corp) = (Origin::start().await, Corp::new());
    let plan = Plan {
        workers: 1,
        max_connections: 4,
        timeouts: Timeouts {
            handshake: PATIENCE * 2,
            ..Timeouts::default()
        },
        ..Plan::default()
    };
    let lab = plan.start(set(&corp, &origin));
    let mut verified = client_from(&lab, "127.0.0.2").await;
    let good = corp.token("orders:read");
    assert_eq!(bearer(&mut verified, &good).await.status, 200);
    let mut idle = Vec::new();
    for _ in 0..3 {
        idle.push(from(&lab, "127.0.0.1").await);
    }
    eventually("all places are taken", async || {
        lab.metrics()
            .contains(r#"enforcer_connections{listener="main"} 4"#)
    })
    .await;
    for given_up in 1..=3 {
        let mut next = client_from(&lab, "127.0.0.3").await;
        assert_eq!(bearer(&mut next, &good).await.status, 200);
        let mut gone = idle.remove(0);
        assert!(gone.read_u8().await.is_err(), "the longest idle is ended");
        let line = format!("enforcer_connections_given_up_total {given_up}");
        assert!(lab.metrics().lines().any(|each| each == line));
        // It is verified now, so it has to leave by itself.
        drop(next);
        eventually("a place is free", async || {
            !lab.metrics()
                .contains(r#"enforcer_connections{listener="main"} 4"#)
        })
        .await;
        idle.push(from(&lab, "127.0.0.1").await);
        eventually("and taken again", async || {
            lab.metrics()
                .contains(r#"enforcer_connections{listener="main"} 4"#)
        })
        .await;
    }
    assert_eq!(
        bearer(&mut verified, &good).await.status,
        200,
        "never a verified one"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn m7_a_flood_of_silent_handshakes_ends_its_own() {
    const FLOOD: usize = 200;
    let origin = Origin::start().await;
    let plan = Plan {
        workers: 1,
        concurrent: Some(8),
        timeouts: Timeouts {
            handshake: PATIENCE * 2,
            ..Timeouts::default()
        },
        ..Plan::default()
    };
    let lab = plan.start(policy::open(&[origin.address]));
    // As a client whose packets take long: it has connected, and its first message is still to come.
    let slow = from(&lab, "127.0.1.1").await;
    let mut flood = Vec::new();
    for _ in 0..FLOOD {
        flood.push(from(&lab, "127.0.0.1").await);
    }
    let line = format!(
        r#"enforcer_handshakes_total{{listener="main",result="refused"}} {}"#,
        FLOOD + 1 - 8
    );
    eventually("all but eight are given up", async || {
        lab.metrics().lines().any(|each| each == line)
    })
    .await;
    let stream = TlsConnector::from(lab.pki.client_config(None, H1))
        .connect(ServerName::try_from(HOST).unwrap(), slow)
        .await
        .unwrap();
    let mut client = Client::over(stream).await;
    let reply = tokio::time::timeout(Duration::from_secs(20), client.get("/")).await;
    assert_eq!(reply.unwrap().status, 200, "another source's goes on");
    drop(flood);
}
