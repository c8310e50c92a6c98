//! Who gets in: client certificates, tokens, limits; and what the rest of the agent hears of it.

use std::{
    num::NonZeroU64,
    sync::Arc,
    time::{Duration, Instant},
};

use enforcer_common::limiter::{Algorithm, Params};
use enforcer_gateway::signal::Verdict;
use enforcer_model::{
    Budget, Counted, Exceed, Mode, PolicySet, Rate, RequestKey, RequestLimit, Requirement, Route,
    TokenContent, TokenRequirement, flow::Identity,
};
use enforcer_tls::config::ClientCertificates;

use crate::data_path::support::{
    Lab, Plan,
    client::{self, Client, H1, H2, Reply},
    corp::Corp,
    eventually,
    origin::Origin,
    pki, policy,
};

const ORDERS: &str = "spiffe://example.com/ns/shop/sa/orders";

fn plan(client_certificates: ClientCertificates) -> Plan {
    Plan {
        client_certificates,
        ..Plan::default()
    }
}

/// Connects with that certificate and asks for `/`.
async fn ask(lab: &Lab, certificate: Option<pki::Client>, alpn: &[&[u8]]) -> Option<Reply> {
    let stream = client::tls(lab.address, lab.pki.client_config(certificate, alpn))
        .await
        .ok()?;
    // In TLS 1.3 the server's refusal comes after the client's handshake.
    Client::over(stream).await.send(client::get("/")).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn required_certificates() {
    let origin = Origin::start().await;
    let mut rule = policy::open_rule();
    rule.require = policy::certificate(&["spiffe://example.com/ns/shop/sa/*"]);
    let set = policy::set(vec![rule], policy::service(&[origin.address]));
    let lab = plan(ClientCertificates::Required).start(set);

    for alpn in [H1, H2] {
        let reply = ask(&lab, Some(lab.pki.client(ORDERS)), alpn).await.unwrap();
        assert_eq!(reply.status, 200);
        assert_eq!(origin.last().headers["x-enforcer-identity"], ORDERS);
    }
    let other = ask(&lab, Some(lab.pki.client("spiffe://example.com/ns/other")), H1)
        .await
        .unwrap();
    assert_eq!(other.status, 403);
    assert_eq!(other.headers["content-type"], "application/problem+json");
    assert_eq!(
        origin.requests(),
        2,
        "a forbidden request does not reach the service"
    );

    lab.recorder.all_closed().await;
    lab.recorder.look(|seen| {
        assert_eq!(seen.verified.len(), 3);
        assert_eq!(seen.verified[0].1, Identity::Certificate(ORDERS.into()));
        assert_eq!(seen.verified[0].0.local, lab.address);
        assert!(seen.failed.is_empty());
        assert_eq!(seen.verdicts[2], (Verdict::Forbidden, 403));
    });

    assert!(
        ask(&lab, None, H1).await.is_none(),
        "no handshake without a certificate"
    );
    assert!(
        ask(&lab, Some(pki::stranger(ORDERS)), H1).await.is_none(),
        "nor with a stranger's"
    );
    eventually(
        "the bad certificate is told, the missing one is not",
        async || {
            lab.recorder
                .look(|seen| seen.failed == ["127.0.0.1".parse::<std::net::IpAddr>().unwrap()])
        },
    )
    .await;
    assert!(
        lab.metrics()
            .contains(r#"enforcer_handshakes_total{listener="main",result="certificate"} 2"#)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn optional_certificates() {
    let origin = Origin::start().await;
    let mut rule = policy::open_rule();
    rule.require = policy::certificate(&[]);
    let set = policy::set(vec![rule], policy::service(&[origin.address]));
    let lab = plan(ClientCertificates::Optional).start(set);
    let reply = ask(&lab, None, H2).await.unwrap();
    assert_eq!(reply.status, 401);
    assert!(reply.headers.contains_key("www-authenticate"));
    assert_eq!(
        ask(&lab, Some(lab.pki.client(ORDERS)), H2).await.unwrap().status,
        200
    );
    assert!(ask(&lab, Some(pki::stranger(ORDERS)), H2).await.is_none());
    lab.recorder.all_closed().await;
    lab.recorder.look(|seen| assert_eq!(seen.verified.len(), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_nobody_asks_for() {
    let origin = Origin::start().await;
    let lab = plan(ClientCertificates::Off).start(policy::open(&[origin.address]));
    assert_eq!(
        ask(&lab, Some(pki::stranger(ORDERS)), H1).await.unwrap().status,
        200
    );
    assert!(!origin.last().headers.contains_key("x-enforcer-identity"));
    lab.recorder
        .look(|seen| assert!(seen.verified.is_empty() && seen.failed.is_empty()));
}

/// Everybody whose token has the scope may do everything.
fn set(corp: &Corp, origin: &Origin) -> PolicySet {
    let mut rule = policy::open_rule();
    let scopes = vec!["orders:read".into()];
    let token = Some(TokenRequirement {
        issuer: policy::name("corp"),
        scopes,
        content: TokenContent::default(),
    });
    rule.require = Requirement::Proof {
        mtls: None,
        token,
        api_key: None,
    };
    let mut set = policy::set(vec![rule], policy::service(&[origin.address]));
    set.issuers = vec![Arc::new(corp.issuer())];
    set
}

async fn bearer(client: &mut Client, token: &str) -> Reply {
    let mut request = client::get("/");
    request
        .headers_mut()
        .insert("authorization", format!("Bearer {token}").parse().unwrap());
    client.send(request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens() {
    let (origin, corp) = (Origin::start().await, Corp::new());
    let lab = Plan::default().start(set(&corp, &origin));
    let mut client = Client::connect(&lab, H2).await;

    let none = client.get("/").await;
    assert_eq!(none.status, 401);
    assert!(
        none.headers["www-authenticate"]
            .to_str()
            .unwrap()
            .starts_with("Bearer")
    );
    let signed = |token: String| {
        token
            .rsplit_once('.')
            .map(|(text, name)| (text.to_owned(), name.to_owned()))
    };
    let (text, _) = signed(corp.token("orders:read")).unwrap();
    let (_, other) = signed(corp.token("orders:write")).unwrap();
    assert_eq!(bearer(&mut client, &format!("{text}.{other}")).await.status, 401);
    assert_eq!(bearer(&mut client, &corp.token("orders:write")).await.status, 403);
    assert_eq!(origin.requests(), 0);
    lab.recorder.look(|seen| {
        assert_eq!(
            seen.failed.len(),
            1,
            "only the token whose signature does not hold"
        );
        assert!(
            seen.verified.is_empty(),
            "a token that does not suffice proves nothing here"
        );
    });

    for _ in 0..3 {
        assert_eq!(bearer(&mut client, &corp.token("orders:read")).await.status, 200);
    }
    let seen = origin.last().headers;
    assert_eq!(
        (&seen["x-enforcer-subject"], &seen["x-enforcer-client"]),
        (&"alice".parse().unwrap(), &"web".parse().unwrap())
    );
    drop(client);
    lab.recorder.all_closed().await;
    lab.recorder.look(|seen| {
        let token = Identity::Token {
            issuer: policy::name("corp"),
            subject: "alice".into(),
        };
        let identities: Vec<_> = seen.verified.iter().map(|(_, identity)| identity).collect();
        assert_eq!(identities, [&token], "once per connection");
    });
}

pub(crate) fn limit(per: RequestKey, amount: u64) -> RequestLimit {
    let hour = Duration::from_secs(3600);
    let amount = NonZeroU64::new(amount).unwrap();
    RequestLimit {
        name: "few".into(),
        per: vec![per],
        counted: Counted::Requests(NonZeroU64::MIN),
        tiers: Vec::new(),
        budget: Budget {
            rate: Rate::new(amount, hour).unwrap(),
            burst: amount,
        },
        params: Params::new(
            Algorithm::TokenBucket,
            amount.get(),
            hour.as_nanos() as u64,
            amount.get(),
        )
        .unwrap(),
        exceed: Exceed::Reject,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_over_all_workers() {
    let origin = Origin::start().await;
    let mut rule = policy::open_rule();
    rule.limits = vec![limit(RequestKey::SOURCE, 5)];
    let lab = Plan::default().start(policy::set(vec![rule], policy::service(&[origin.address])));
    let mut statuses = Vec::new();
    // Several connections, so that both workers have some.
    for _ in 0..8 {
        let reply = Client::connect(&lab, H1).await.get("/").await;
        assert!(reply.headers.contains_key("ratelimit"), "{:?}", reply.headers);
        if reply.status == 429 {
            assert!(reply.headers.contains_key("retry-after"));
        }
        statuses.push(reply.status.as_u16());
    }
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429, 429]);
    assert_eq!(origin.requests(), 5);
    lab.recorder
        .look(|seen| assert_eq!(seen.verdicts.last(), Some(&(Verdict::Limited, 429))));
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_a_limit_is_not_the_services_time() {
    let origin = Origin::start().await;
    let second = Duration::from_secs(1);
    let one = NonZeroU64::MIN;
    let mut rule = policy::open_rule();
    // Shorter than the wait.
    rule.timeout = second / 2;
    rule.limits = vec![RequestLimit {
        budget: Budget {
            rate: Rate::new(one, second).unwrap(),
            burst: one,
        },
        params: Params::new(Algorithm::TokenBucket, 1, second.as_nanos() as u64, 1).unwrap(),
        exceed: Exceed::Queue(second * 5),
        ..limit(RequestKey::Rule, 1)
    }];
    let lab = Plan::default().start(policy::set(vec![rule], policy::service(&[origin.address])));
    let mut client = Client::connect(&lab, H1).await;
    let start = Instant::now();
    for _ in 0..3 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert!(
        start.elapsed() >= second,
        "{:?}: nothing has waited",
        start.elapsed()
    );
    lab.recorder.look(|seen| {
        let short = |latency: &Option<Duration>| latency.is_some_and(|latency| latency < second / 2);
        assert!(seen.latencies.iter().all(short), "{:?}", seen.latencies);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_says_nothing_admits_nobody() {
    let origin = Origin::start().await;
    let mut rule = policy::open_rule();
    rule.require = Requirement::Nobody;
    let lab = Plan::default().start(policy::set(vec![rule], policy::service(&[origin.address])));
    assert_eq!(Client::connect(&lab, H1).await.get("/").await.status, 403);
    assert_eq!(origin.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn shadow_counts_and_lets_through() {
    let origin = Origin::start().await;
    let mut rule = policy::open_rule();
    rule.require = policy::certificate(&[]);
    let mut set = policy::set(vec![rule], policy::service(&[origin.address]));
    let route = Route {
        mode: Mode::Shadow,
        ..(*set.routes[0]).clone()
    };
    set.routes = vec![Arc::new(route)];
    let lab = Plan::default().start(set);
    assert_eq!(Client::connect(&lab, H1).await.get("/").await.status, 200);
    lab.recorder
        .look(|seen| assert_eq!(seen.verdicts, [(Verdict::Unauthenticated, 200)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_ends_closes_all() {
    let origin = Origin::start().await;
    let lab = plan(ClientCertificates::Optional).start(policy::open(&[origin.address]));
    let mut clients = Vec::new();
    for alpn in [H1, H2] {
        let config = lab.pki.client_config(Some(lab.pki.client(ORDERS)), alpn);
        let mut client = Client::over(client::tls(lab.address, config).await.unwrap()).await;
        assert_eq!(client.get("/").await.status, 200);
        clients.push(client);
    }
    drop(lab.gateway);
    lab.recorder.all_closed().await;
    lab.recorder.look(|seen| assert_eq!(seen.closed.len(), 2));
}
