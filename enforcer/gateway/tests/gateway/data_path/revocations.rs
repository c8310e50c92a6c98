//! Revoked proofs: later requests are refused, and what rests on them ends.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use enforcer_gateway::signal::Verdict;
use enforcer_model::{Credential, PolicySet, Revocation};
use enforcer_tls::{certificate::ClientCertificate, config::ClientCertificates};
use rustls::ClientConfig;
use serde_json::json;
use time::OffsetDateTime;
use tokio::task::JoinHandle;

use crate::data_path::{
    api_keys::{Key, document, key, load},
    support::{
        Lab, PATIENCE, Plan,
        client::{self, Client, H1, H2, Reply},
        corp::Corp,
        eventually, in_time,
        origin::Origin,
        policy,
    },
};

/// Who asks, with all that it proves.
struct Caller {
    config: Arc<ClientConfig>,
    certificate: ClientCertificate,
    token: String,
    key: String,
}

/// A rule that wants a certificate, a token and a key, and `more` documents.
fn set(origin: &Origin, corp: &Corp, mode: &str, keys: &[&Key], more: &str) -> PolicySet {
    let entries: String = keys.iter().map(|key| key.entry.as_str()).collect();
    let issuer = format!(
        "  issuer: https://idp.example.com\n  jwks: {{file: {}}}\n  audiences: orders\n  algorithms: ES256",
        corp.directory.path().join("jwks.json").display()
    );
    let require = "{mtls: {}, token: {issuer: corp}, apiKey: {keys: partners}}";
    let route =
        format!("  mode: {mode}\n  hosts: [\"*\"]\n  rules:\n    - {{service: orders, require: {require}}}");
    load(
        &[
            document("ApiKeys", "partners", &format!("  keys:\n{entries}")),
            document("Issuer", "corp", &issuer),
            document(
                "Service",
                "orders",
                &format!("  endpoints: [\"http://{}\"]", origin.address),
            ),
            document("Route", "orders", &route),
            more.to_owned(),
        ]
        .concat(),
    )
}

fn caller(lab: &Lab, corp: &Corp, name: &str, key: &Key, alpn: &[&[u8]]) -> Caller {
    let client = lab.pki.client(&format!("spiffe://example.com/{name}"));
    let certificate = ClientCertificate::from_der(&client.certificate).unwrap();
    Caller {
        config: lab.pki.client_config(Some(client), alpn),
        certificate,
        token: corp.token_with(&json!({"jti": name, "sub": name, "client_id": name})),
        key: key.text.clone(),
    }
}

impl Caller {
    async fn connect(&self, lab: &Lab) -> Client {
        Client::over(client::tls(lab.address, Arc::clone(&self.config)).await.unwrap()).await
    }

    async fn ask(&self, client: &mut Client, path: &str) -> hyper::Result<Reply> {
        let mut request = client::get(path);
        let fields = request.headers_mut();
        fields.insert("authorization", format!("Bearer {}", self.token).parse().unwrap());
        fields.insert("x-api-key", self.key.parse().unwrap());
        in_time(path, client.send(request)).await
    }

    /// A request that is under way until the origin lets it go.
    async fn hold(&self, lab: &Lab, origin: &Origin) -> JoinHandle<Option<Instant>> {
        let before = origin.requests();
        let mut client = self.connect(lab).await;
        let caller = Self {
            config: Arc::clone(&self.config),
            certificate: self.certificate.clone(),
            token: self.token.clone(),
            key: self.key.clone(),
        };
        let asking = tokio::spawn(async move {
            caller
                .ask(&mut client, "/held")
                .await
                .err()
                .map(|_| Instant::now())
        });
        eventually("the request is under way", async || origin.requests() > before).await;
        asking
    }
}

fn revocation(what: Credential, until: Option<OffsetDateTime>) -> Revocation {
    Revocation {
        what,
        reason: Some("test".into()),
        until,
    }
}

fn plan() -> Plan {
    Plan {
        client_certificates: ClientCertificates::Optional,
        ..Plan::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_proof_is_refused_and_what_rests_on_it_ends() {
    let corp = Corp::new();
    for alpn in [H1, H2] {
        let origin = Origin::start().await;
        let (his, hers) = (key("his", ""), key("hers", ""));
        let lab = plan().start(set(&origin, &corp, "enforce", &[&his, &hers], ""));
        let alice = caller(&lab, &corp, "alice", &his, alpn);
        let bob = caller(&lab, &corp, "bob", &hers, alpn);
        let mut beside = bob.connect(&lab).await;
        let issuer = policy::name("corp");
        let Caller { certificate, .. } = &alice;
        for what in [
            Credential::Token {
                issuer: issuer.clone(),
                id: "alice".into(),
            },
            Credential::Subject {
                issuer: issuer.clone(),
                subject: "alice".into(),
            },
            Credential::Client {
                issuer,
                client: "alice".into(),
            },
            Credential::Key("his".into()),
            Credential::Certificate(certificate.fingerprint_sha256),
            Credential::Serial {
                issuer: Arc::clone(&certificate.issuer),
                serial: Arc::clone(&certificate.serial),
            },
        ] {
            let mut idle = alice.connect(&lab).await;
            assert_eq!(alice.ask(&mut idle, "/").await.unwrap().status, 200, "{what}");
            assert_eq!(bob.ask(&mut beside, "/").await.unwrap().status, 200, "{what}");
            let held = alice.hold(&lab, &origin).await;
            let closed = lab.recorder.look(|seen| seen.closed.len());
            let verified = lab.recorder.look(|seen| seen.verified.len());

            let store = lab.policies.revocations();
            let begins = Instant::now();
            store.add(revocation(what.clone(), None)).unwrap();
            let ended = lab.gateway.revoker().end_revoked().await;
            assert_eq!(ended.flows.len(), 2, "{what}: {ended:?}");
            eventually("the agent is told", async || {
                lab.recorder.look(|seen| seen.closed.len() >= closed + 2)
            })
            .await;
            let told = begins.elapsed();
            let reset = in_time("the end", held)
                .await
                .unwrap()
                .expect("an error, not an answer");
            let reset = reset.duration_since(begins);
            println!("{what}: reset after {reset:?}, the agent told after {told:?}");
            assert!(reset < PATIENCE / 2 && told < PATIENCE / 2, "{what}");
            assert!(
                alice.ask(&mut idle, "/").await.is_err(),
                "{what}: the idle one still works"
            );

            let mut again = alice.connect(&lab).await;
            let refused = alice.ask(&mut again, "/").await.unwrap();
            assert_eq!(refused.status, 401, "{what}");
            let challenge = refused.headers["www-authenticate"].to_str().unwrap();
            assert!(
                challenge.contains("error=\"invalid_token\"") && challenge.contains("has been revoked"),
                "{what}: {challenge}"
            );
            let by_certificate = matches!(what, Credential::Certificate(_) | Credential::Serial { .. });
            let expected = verified + usize::from(!by_certificate);
            lab.recorder.look(|seen| {
                assert_eq!(
                    seen.verified.len(),
                    expected,
                    "{what}: a revoked certificate proves nothing"
                );
                assert_eq!(seen.verdicts.last(), Some(&(Verdict::Unauthenticated, 401)));
            });
            // Its neighbour notices nothing.
            assert_eq!(bob.ask(&mut beside, "/").await.unwrap().status, 200, "{what}");

            assert!(store.remove(&what) && !store.remove(&what), "{what}");
            assert_eq!(alice.ask(&mut again, "/").await.unwrap().status, 200, "{what}");
            // One that has ended holds no more.
            let past = OffsetDateTime::now_utc() - Duration::from_secs(1);
            store.add(revocation(what.clone(), Some(past))).unwrap();
            assert!(
                lab.gateway.revoker().end_revoked().await.flows.is_empty(),
                "{what}"
            );
            assert_eq!(alice.ask(&mut again, "/").await.unwrap().status, 200, "{what}");
            store.remove(&what);
        }
        eventually("the reason is counted", async || {
            lab.metrics()
                .contains("enforcer_denials_total{reason=\"revoked\",route=\"orders\"} 6\n")
        })
        .await;
        assert!(lab.metrics().contains("enforcer_connections_revoked_total 12\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_file_revokes_ends_by_itself() {
    let corp = Corp::new();
    for alpn in [H1, H2] {
        let origin = Origin::start().await;
        let (his, hers) = (key("his", ""), key("hers", ""));
        let keys = [&his, &hers];
        let lab = plan().start(set(&origin, &corp, "enforce", &keys, ""));
        let alice = caller(&lab, &corp, "alice", &his, alpn);
        let bob = caller(&lab, &corp, "bob", &hers, alpn);
        let mut beside = bob.connect(&lab).await;
        assert_eq!(bob.ask(&mut beside, "/").await.unwrap().status, 200);
        let held = alice.hold(&lab, &origin).await;
        let revoked = document("Revocations", "leaked", "  entries: [{key: his, reason: test}]");
        let begins = Instant::now();
        lab.policies
            .replace(set(&origin, &corp, "enforce", &keys, &revoked));
        let reset = in_time("the end", held)
            .await
            .unwrap()
            .expect("an error, not an answer");
        println!("by a file: reset after {:?}", reset.duration_since(begins));
        let mut again = alice.connect(&lab).await;
        assert_eq!(alice.ask(&mut again, "/").await.unwrap().status, 401);
        assert_eq!(bob.ask(&mut beside, "/").await.unwrap().status, 200);
        // What the operator revokes stays when files change, and ends alone.
        let store = lab.policies.revocations();
        store
            .add(revocation(Credential::Key("his".into()), None))
            .unwrap();
        lab.policies.replace(set(&origin, &corp, "enforce", &keys, ""));
        assert_eq!(alice.ask(&mut again, "/").await.unwrap().status, 401);
        store.remove(&Credential::Key("his".into()));
        assert_eq!(alice.ask(&mut again, "/").await.unwrap().status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rests_on_a_key_that_is_taken_out_ends() {
    let corp = Corp::new();
    for alpn in [H1, H2] {
        let origin = Origin::start().await;
        let (his, hers) = (key("his", ""), key("hers", ""));
        let lab = plan().start(set(&origin, &corp, "enforce", &[&his, &hers], ""));
        let alice = caller(&lab, &corp, "alice", &his, alpn);
        let bob = caller(&lab, &corp, "bob", &hers, alpn);
        let mut beside = bob.connect(&lab).await;
        assert_eq!(bob.ask(&mut beside, "/").await.unwrap().status, 200);
        let held = alice.hold(&lab, &origin).await;
        // Another generation with the same keys ends nothing.
        lab.policies
            .replace(set(&origin, &corp, "enforce", &[&hers, &his], ""));
        assert_eq!(bob.ask(&mut beside, "/").await.unwrap().status, 200);
        assert!(!held.is_finished());
        lab.policies.replace(set(&origin, &corp, "enforce", &[&hers], ""));
        let reset = in_time("the end", held).await.unwrap();
        reset.expect("an error, not an answer");
        let mut again = alice.connect(&lab).await;
        assert_eq!(alice.ask(&mut again, "/").await.unwrap().status, 401);
        assert_eq!(bob.ask(&mut beside, "/").await.unwrap().status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shadow_counts_what_is_revoked_and_lets_it_through() {
    let (corp, origin) = (Corp::new(), Origin::start().await);
    let his = key("his", "");
    let lab = plan().start(set(&origin, &corp, "shadow", &[&his], ""));
    lab.policies
        .revocations()
        .add(revocation(Credential::Key("his".into()), None))
        .unwrap();
    let alice = caller(&lab, &corp, "alice", &his, H1);
    let mut client = alice.connect(&lab).await;
    assert_eq!(alice.ask(&mut client, "/").await.unwrap().status, 200);
    lab.recorder
        .look(|seen| assert_eq!(seen.verdicts, [(Verdict::Unauthenticated, 200)]));
    eventually("the reason is counted", async || {
        lab.metrics()
            .contains("enforcer_denials_total{reason=\"revoked\",route=\"orders\"} 1\n")
    })
    .await;
}
