//! API keys, from documents as they are written.

use std::{fs, time::Duration};

use enforcer_gateway::{identity::api_key, signal::Verdict};
use enforcer_model::{PolicySet, flow::Identity};
use tempfile::TempDir;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::data_path::support::{
    Plan,
    client::{self, Client, H1, H2, Reply},
    eventually,
    origin::Origin,
};

/// A key and its entry in a document.
pub(crate) struct Key {
    pub(crate) text: String,
    pub(crate) entry: String,
}

/// A new key of that id, with these further fields.
pub(crate) fn key(id: &str, more: &str) -> Key {
    let text = api_key::generate().unwrap();
    let hash: String = api_key::hash(text.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let entry = format!("    - {{id: {id}, hash: \"sha256:{hash}\", owner: owner of {id}{more}}}\n");
    Key { text, entry }
}

/// What a file with these documents loads as.
pub(crate) fn load(text: &str) -> PolicySet {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("policies.yaml");
    fs::write(&file, text).unwrap();
    enforcer_policy::load(&[file]).unwrap().set
}

/// A document of that kind and name.
pub(crate) fn document(kind: &str, name: &str, spec: &str) -> String {
    format!("---\napiVersion: enforcer.dev/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{spec}\n")
}

/// Two documents of keys, and a rule that wants one of `partners`, limited to three requests for each key.
fn set(origin: &Origin, mode: &str, partners: &[&Key], others: &[&Key]) -> PolicySet {
    let entries = |keys: &[&Key]| -> String {
        let entries: String = keys.iter().map(|key| key.entry.as_str()).collect();
        let none = if keys.is_empty() { " []" } else { "" };
        format!("  keys:{none}\n{entries}")
    };
    let rule = "{service: orders, require: {apiKey: {keys: partners}}, limits: [{per: apiKey, rate: 3/h}]}";
    let route = format!("  mode: {mode}\n  hosts: [\"*\"]\n  rules:\n    - {rule}");
    load(
        &[
            document("ApiKeys", "partners", &entries(partners)),
            document("ApiKeys", "others", &entries(others)),
            document(
                "Service",
                "orders",
                &format!("  endpoints: [\"http://{}\"]", origin.address),
            ),
            document("Route", "orders", &route),
        ]
        .concat(),
    )
}

/// Asks for `/` with these keys.
pub(crate) async fn ask(client: &mut Client, keys: &[&str]) -> Reply {
    let mut request = client::get("/");
    for key in keys {
        request.headers_mut().append("x-api-key", key.parse().unwrap());
    }
    client.send(request).await.unwrap()
}

fn in_time(seconds: i64) -> String {
    let time = OffsetDateTime::now_utc() + time::Duration::seconds(seconds);
    format!(", expires: \"{}\"", time.format(&Rfc3339).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_proofs() {
    for alpn in [H1, H2] {
        let origin = Origin::start().await;
        let (good, old, other) = (
            key("good", ", tier: gold, roles: reader"),
            key("old", &in_time(-1)),
            key("other", ""),
        );
        let unknown = key("unknown", "").text;
        let lab = Plan::default().start(set(&origin, "enforce", &[&good, &old], &[&other]));
        let mut client = Client::connect(&lab, alpn).await;
        let mistyped = good.text.replace("enf_", "enf-");
        let refused = "ApiKey realm=\"orders\"";
        for (keys, status, challenge, detail) in [
            (&[][..], 401, refused, "none was sent"),
            (
                &[mistyped.as_str()],
                401,
                "error=\"invalid_token\"",
                "cut off or mistyped",
            ),
            (&[&unknown], 401, "error=\"invalid_token\"", "no such API key"),
            (&[&old.text], 401, "error=\"invalid_token\"", "has expired"),
            (
                &[&good.text, &good.text],
                400,
                "error=\"invalid_request\"",
                "send one",
            ),
            (
                &[&other.text],
                403,
                "error=\"insufficient_scope\"",
                "not for this",
            ),
        ] {
            let reply = ask(&mut client, keys).await;
            assert_eq!(reply.status, status, "{detail}");
            let said = reply.headers["www-authenticate"].to_str().unwrap();
            assert!(said.starts_with(refused) && said.contains(challenge), "{said}");
            assert_eq!(reply.headers["content-type"], "application/problem+json");
            let body = str::from_utf8(&reply.body).unwrap();
            assert!(body.contains(detail), "{body}");
        }
        assert_eq!(origin.requests(), 0);
        lab.recorder.look(|seen| {
            assert_eq!(
                seen.failed.len(),
                2,
                "only the mistyped and the unknown key are guesses"
            );
            assert!(seen.verified.is_empty());
            assert_eq!(seen.verdicts[3], (Verdict::Unauthenticated, 401));
            assert_eq!(seen.verdicts[5], (Verdict::Forbidden, 403));
        });

        assert_eq!(ask(&mut client, &[&good.text]).await.status, 200);
        let seen = origin.last().headers;
        assert_eq!(
            (&seen["x-enforcer-owner"], &seen["x-enforcer-key"]),
            (&"owner of good".parse().unwrap(), &"good".parse().unwrap())
        );
        assert!(!seen.contains_key("x-api-key"), "the key stays in the gateway");
        lab.recorder.look(|seen| {
            let identity = Identity::ApiKey {
                owner: "owner of good".into(),
                id: "good".into(),
            };
            assert_eq!(seen.verified[0].1, identity);
            assert_eq!(identity.to_string(), "api-key good of owner of good");
        });
        // The limit is the key's, over all its connections.
        let mut second = Client::connect(&lab, alpn).await;
        assert_eq!(ask(&mut second, &[&good.text]).await.status, 200);
        assert_eq!(ask(&mut client, &[&good.text]).await.status, 200);
        assert_eq!(ask(&mut second, &[&good.text]).await.status, 429);
        eventually("the reason is counted", async || {
            let metrics = lab.metrics();
            [
                ("key_missing", 1),
                ("key_unreadable", 2),
                ("key_unknown", 1),
                ("key_expired", 1),
                ("key_elsewhere", 1),
            ]
            .iter()
            .all(|(reason, count)| {
                metrics.contains(&format!(
                    "enforcer_denials_total{{reason=\"{reason}\",route=\"orders\"}} {count}\n"
                ))
            })
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_ask_for_roles_and_facts_of_keys() {
    let (reader, both, gold) = (
        key("reader", ", roles: [reader]"),
        key("both", ", roles: [writer, reader]"),
        key("gold", ", tier: gold, roles: reader"),
    );
    let keys = [&reader, &both, &gold].map(|key| key.entry.as_str()).concat();
    for alpn in [H1, H2] {
        let origin = Origin::start().await;
        let rules = [
            "match: {path: {prefix: /write}}, require: {apiKey: {keys: partners, roles: [reader, writer]}}",
            "match: {path: {prefix: /owner}}, require: {apiKey: {keys: partners}, when: \"apiKey.owner == 'owner of both'\"}",
            "match: {path: {prefix: /gold}}, require: {apiKey: {keys: partners}, when: \"apiKey.tier == 'gold' && 'reader' in apiKey.roles\"}",
        ];
        let rules: String = rules
            .iter()
            .map(|rule| format!("    - {{service: orders, {rule}}}\n"))
            .collect();
        let set = load(
            &[
                document("ApiKeys", "partners", &format!("  keys:\n{keys}")),
                document(
                    "Service",
                    "orders",
                    &format!("  endpoints: [\"http://{}\"]", origin.address),
                ),
                document("Route", "orders", &format!("  hosts: [\"*\"]\n  rules:\n{rules}")),
            ]
            .concat(),
        );
        let lab = Plan::default().start(set);
        let mut client = Client::connect(&lab, alpn).await;
        for (path, key, status) in [
            ("/write", &reader, 403),
            ("/write", &both, 200),
            ("/owner", &reader, 403),
            ("/owner", &both, 200),
            ("/gold", &reader, 403),
            ("/gold", &both, 403),
            ("/gold", &gold, 200),
        ] {
            let mut request = client::get(path);
            let headers = request.headers_mut();
            headers.insert("x-api-key", key.text.parse().unwrap());
            let reply = client.send(request).await.unwrap();
            assert_eq!(reply.status, status, "{path} {}: {reply:?}", key.entry);
        }
        lab.recorder
            .look(|seen| assert!(seen.failed.is_empty(), "what is not enough is no failed proof"));
        eventually("the reasons are counted", async || {
            let metrics = lab.metrics();
            [("roles", 1), ("condition", 3)].iter().all(|(reason, count)| {
                metrics.contains(&format!(
                    "enforcer_denials_total{{reason=\"{reason}\",route=\"orders\"}} {count}\n"
                ))
            })
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_a_key_holds_for_living_connections() {
    for alpn in [H1, H2] {
        let origin = Origin::start().await;
        let (short, long) = (key("short", &in_time(2)), key("long", ""));
        let lab = Plan::default().start(set(&origin, "enforce", &[&short, &long], &[]));
        let mut client = Client::connect(&lab, alpn).await;
        assert_eq!(ask(&mut client, &[&long.text]).await.status, 200);
        tokio::time::sleep(Duration::from_millis(2_100)).await;
        assert_eq!(
            ask(&mut client, &[&short.text]).await.status,
            401,
            "it has expired since"
        );
        lab.policies.replace(set(&origin, "enforce", &[&short], &[&long]));
        eventually("another document is another right", async || {
            ask(&mut client, &[&long.text]).await.status == 403
        })
        .await;
        lab.policies.replace(set(&origin, "enforce", &[&short], &[]));
        eventually("what rests on a key that is taken out ends", async || {
            client.send(client::get("/")).await.is_err()
        })
        .await;
        let mut again = Client::connect(&lab, alpn).await;
        assert_eq!(ask(&mut again, &[&long.text]).await.status, 401, "it is unknown");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shadow_counts_keys_and_keeps_them_from_services() {
    let origin = Origin::start().await;
    let old = key("old", &in_time(-1));
    let lab = Plan::default().start(set(&origin, "shadow", &[&old], &[]));
    let mut client = Client::connect(&lab, H1).await;
    assert_eq!(ask(&mut client, &[&old.text]).await.status, 200);
    assert!(!origin.last().headers.contains_key("x-api-key"));
    assert!(!origin.last().headers.contains_key("x-enforcer-key"));
    lab.recorder
        .look(|seen| assert_eq!(seen.verdicts, [(Verdict::Unauthenticated, 200)]));
}
