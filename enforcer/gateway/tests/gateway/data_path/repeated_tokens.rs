//! Tokens that a connection sends again and again: each request is judged by what holds then.

use std::{fs, sync::Arc, time::Duration};

use enforcer_gateway::signal::Verdict;
use enforcer_model::{
    CheckedBy, Credential, Issuer, Jwks, JwksSource, PathMatch, PolicySet, Requirement, Revocation, Rule,
    TokenContent, TokenRequirement,
};
use serde_json::json;

use crate::data_path::support::{
    Lab, Plan,
    client::{self, Client, H1, H2, Reply},
    corp::{Corp, SigningKey, key_set},
    eventually, in_time,
    origin::Origin,
    policy,
};

/// So often that a connection remembers it.
const OFTEN: usize = 4;

fn rule(issuer: &str) -> Rule {
    let mut rule = policy::open_rule();
    rule.require = Requirement::Proof {
        mtls: None,
        token: Some(TokenRequirement {
            issuer: policy::name(issuer),
            scopes: Vec::new(),
            content: TokenContent::default(),
        }),
        api_key: None,
    };
    rule
}

fn set(issuers: Vec<Issuer>, rules: Vec<Rule>, origin: &Origin) -> PolicySet {
    let mut set = policy::set(rules, policy::service(&[origin.address]));
    set.issuers = issuers.into_iter().map(Arc::new).collect();
    set
}

async fn ask(client: &mut Client, path: &str, credentials: &[&str]) -> Reply {
    let mut request = client::get(path);
    for value in credentials {
        request
            .headers_mut()
            .append("authorization", value.parse().unwrap());
    }
    in_time(path, client.send(request)).await.unwrap()
}

/// A client whose connection remembers the `token`.
async fn familiar(lab: &Lab, alpn: &[&[u8]], credentials: &str) -> Client {
    let mut client = Client::connect(lab, alpn).await;
    for _ in 0..OFTEN {
        assert_eq!(ask(&mut client, "/", &[credentials]).await.status, 200);
    }
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_same_bytes_are_let_in() {
    let (origin, corp) = (Origin::start().await, Corp::new());
    let lab = Plan::default().start(set(vec![corp.issuer()], vec![rule("corp")], &origin));
    let token = corp.token("");
    let credentials = format!("Bearer {token}");
    for alpn in [H1, H2] {
        let mut client = familiar(&lab, alpn, &credentials).await;
        let before = origin.requests();
        for place in (0..token.len()).step_by(7).chain([token.len() - 1]) {
            let mut other = token.clone().into_bytes();
            other[place] = match other[place] {
                b'A' => b'B',
                _ => b'A',
            };
            let other = format!("Bearer {}", String::from_utf8(other).unwrap());
            assert_eq!(ask(&mut client, "/", &[&other]).await.status, 401, "{place}");
            assert_eq!(
                ask(&mut client, "/", &[&credentials]).await.status,
                200,
                "{place}"
            );
        }
        assert!(origin.requests() > before);
        let shorter = &credentials[..credentials.len() - 1];
        assert_eq!(ask(&mut client, "/", &[shorter]).await.status, 401);
        let longer = format!("{credentials}A");
        assert_eq!(ask(&mut client, "/", &[&longer]).await.status, 401);
        for _ in 0..OFTEN {
            assert_eq!(ask(&mut client, "/", &[&credentials]).await.status, 200);
        }
        assert_eq!(ask(&mut client, "/", &[]).await.status, 401);
        let twice = ask(&mut client, "/", &[&credentials, &credentials]).await;
        assert_eq!(twice.status, 400, "several fields");
        let lower = format!("bearer  {token}");
        assert_eq!(ask(&mut client, "/", &[&lower]).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_tokens_on_one_connection_stay_apart() {
    let (origin, corp) = (Origin::start().await, Corp::new());
    let lab = Plan::default().start(set(vec![corp.issuer()], vec![rule("corp")], &origin));
    let tokens: Vec<(String, String)> = ["alice", "bob", "carol"]
        .into_iter()
        .map(|who| {
            let token = corp.token_with(&json!({"sub": who, "jti": who}));
            (who.to_owned(), format!("Bearer {token}"))
        })
        .collect();
    for alpn in [H1, H2] {
        let mut client = Client::connect(&lab, alpn).await;
        for index in [0, 0, 0, 1, 0, 1, 1, 1, 2, 0, 2, 2, 2, 0] {
            let (who, credentials) = &tokens[index];
            assert_eq!(ask(&mut client, "/", &[credentials]).await.status, 200);
            assert_eq!(origin.last().headers["x-enforcer-subject"], who.as_str());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_the_token() {
    let (origin, corp) = (Origin::start().await, Corp::new());
    let issuer = Issuer {
        leeway: Duration::ZERO,
        ..corp.issuer()
    };
    let lab = Plan::default().start(set(vec![issuer], vec![rule("corp")], &origin));
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let token = corp.token_with(&json!({"exp": now.as_secs() + 5}));
    let credentials = format!("Bearer {token}");
    let mut clients = [
        familiar(&lab, H1, &credentials).await,
        familiar(&lab, H2, &credentials).await,
    ];
    for client in &mut clients {
        eventually("the token has expired", async || {
            ask(client, "/", &[&credentials]).await.status == 401
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_the_key() {
    let (origin, corp) = (Origin::start().await, Corp::new());
    let issuer = Issuer {
        checked_by: CheckedBy::Keys(Jwks {
            source: JwksSource::File(corp.directory.path().join("jwks.json")),
            refresh: Duration::from_secs(1),
        }),
        ..corp.issuer()
    };
    let lab = Plan::default().start(set(vec![issuer], vec![rule("corp")], &origin));
    let credentials = format!("Bearer {}", corp.token(""));
    let mut client = familiar(&lab, H2, &credentials).await;
    let others = key_set(&[&SigningKey::new("2")]).to_string();
    fs::write(corp.directory.path().join("jwks.json"), others).unwrap();
    eventually("the key is withdrawn with the next reading", async || {
        ask(&mut client, "/", &[&credentials]).await.status == 401
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_the_policy_and_a_revocation() {
    let (origin, corp) = (Origin::start().await, Corp::new());
    let lab = Plan::default().start(set(vec![corp.issuer()], vec![rule("corp")], &origin));
    let credentials = format!("Bearer {}", corp.token(""));
    for alpn in [H1, H2] {
        let mut client = familiar(&lab, alpn, &credentials).await;
        let stricter = Issuer {
            audiences: vec!["billing".into()],
            ..corp.issuer()
        };
        lab.policies
            .replace(set(vec![stricter], vec![rule("corp")], &origin));
        assert_eq!(ask(&mut client, "/", &[&credentials]).await.status, 401);
        lab.policies
            .replace(set(vec![corp.issuer()], vec![rule("corp")], &origin));
        for _ in 0..OFTEN {
            assert_eq!(ask(&mut client, "/", &[&credentials]).await.status, 200);
        }
        let what = Credential::Token {
            issuer: policy::name("corp"),
            id: "1".into(),
        };
        // Nobody ends the connections that rest on it: it is the next request that is refused.
        let store = lab.policies.revocations();
        let entry = Revocation {
            what: what.clone(),
            reason: None,
            until: None,
        };
        store.add(entry).unwrap();
        assert_eq!(ask(&mut client, "/", &[&credentials]).await.status, 401);
        lab.recorder
            .look(|seen| assert_eq!(seen.verdicts.last(), Some(&(Verdict::Unauthenticated, 401))));
        assert!(store.remove(&what));
        assert_eq!(ask(&mut client, "/", &[&credentials]).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_good_for_its_own_issuer_only() {
    let (origin, corp) = (Origin::start().await, Corp::new());
    let other = Issuer {
        name: policy::name("other"),
        issuer: "https://other.example.com".into(),
        ..corp.issuer()
    };
    let mut elsewhere = rule("other");
    elsewhere.path = PathMatch::Prefix("/other".into());
    let rules = vec![elsewhere, rule("corp")];
    let lab = Plan::default().start(set(vec![corp.issuer(), other], rules, &origin));
    let credentials = format!("Bearer {}", corp.token(""));
    for alpn in [H1, H2] {
        let mut client = familiar(&lab, alpn, &credentials).await;
        for _ in 0..OFTEN {
            assert_eq!(ask(&mut client, "/other", &[&credentials]).await.status, 401);
            assert_eq!(ask(&mut client, "/", &[&credentials]).await.status, 200);
        }
    }
}
