//! Limits on requests by other keys and other measures than their number, as policies write them.

use std::fs;

use enforcer_model::PolicySet;
use http::{HeaderValue, Request};
use serde_json::json;
use tempfile::TempDir;

use crate::data_path::{
    api_keys::{document, key, load},
    support::{
        Lab, Plan,
        client::{self, Client, Content, H1, H2},
        corp::Corp,
        origin::Origin,
        pki::HOST,
    },
};

/// A route with `spec`, beside one service.
pub(crate) fn set(spec: &str, origin: &Origin) -> PolicySet {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("policy.yaml");
    let text = format!(
        "apiVersion: enforcer.dev/v1\nkind: Service\nmetadata: {{name: shop}}\n\
         spec: {{endpoints: ['http://{}']}}\n---\n\
         apiVersion: enforcer.dev/v1\nkind: Route\nmetadata: {{name: main}}\n\
         spec:\n  hosts: [{HOST}]\n{spec}",
        origin.address
    );
    fs::write(&file, text).unwrap();
    enforcer_policy::load(&[file]).unwrap().set
}

fn of_team(path: &str, team: &'static str) -> Request<Content> {
    let mut request = client::get(path);
    request
        .headers_mut()
        .insert("x-team", HeaderValue::from_static(team));
    request
}

async fn start(spec: &str, origin: &Origin) -> Lab {
    Plan::default().start(set(spec, origin))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_is_a_key() {
    let origin = Origin::start().await;
    let spec = "  rules: [{require: {anonymous: true}, service: shop, limits: [{rate: 2/h, per: {header: x-team}}]}]";
    for alpn in [H1, H2] {
        let lab = start(spec, &origin).await;
        let mut client = Client::connect(&lab, alpn).await;
        for (team, status) in [("red", 200), ("red", 200), ("red", 429), ("blue", 200)] {
            let reply = client.send(of_team("/", team)).await.unwrap();
            assert_eq!(reply.status, status, "{team}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_share_the_limit_of_their_route() {
    let origin = Origin::start().await;
    let spec = "  limits: [{name: all, rate: 3/h, per: [route]}]
  rules:
  - {match: {path: {prefix: /dear}}, require: {anonymous: true}, service: shop, limits: [{name: dear, cost: 5, rate: 5/h, per: rule}]}
  - {require: {anonymous: true}, service: shop}";
    let lab = start(spec, &origin).await;
    let mut client = Client::connect(&lab, H2).await;
    let told = [
        ("/dear", 200, None),
        ("/dear", 429, Some("dear")),
        ("/", 200, None),
        ("/", 200, None),
        ("/", 429, Some("all")),
        ("/dear", 429, Some("dear")),
    ];
    for (path, status, limit) in told {
        let reply = client.get(path).await;
        assert_eq!(reply.status, status, "{path}");
        if let Some(limit) = limit {
            let problem: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
            assert_eq!(problem["violated-policies"][0], limit);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_response_is_owed() {
    let origin = Origin::start().await;
    let spec = "  rules: [{require: {anonymous: true}, service: shop, limits: [{count: response-bytes, rate: 32MiB/h, per: source}]}]";
    for alpn in [H1, H2] {
        let lab = start(spec, &origin).await;
        let mut client = Client::connect(&lab, alpn).await;
        let small = client.get("/").await;
        assert_eq!(small.status, 200);
        assert_eq!(
            small.headers["ratelimit-policy"],
            "\"main-0-0\";q=33554432;w=3600;qu=\"content-bytes\""
        );
        // It may begin, and what is beyond the limit is not cut.
        let large = client.get("/large").await;
        assert_eq!((large.status.as_u16(), large.body.len()), (200, 64 << 20));
        let refused = client.get("/").await;
        assert_eq!(refused.status, 429);
        let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
        // 64 MiB take two hours, of which one was free.
        assert!((3500..=3601).contains(&wait), "{wait}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_is_said_by_an_api_key_or_by_a_token() {
    let (origin, corp) = (Origin::start().await, Corp::new());
    let (gold, plain) = (key("gold", ", tier: gold"), key("plain", ""));
    let limit = "limits: [{per: [apiKey], rate: 1/h, tiers: {gold: {rate: 3/h}}}]";
    let route = format!(
        "  hosts: [{HOST}]\n  rules:\n    - {{match: {{path: {{prefix: /keys}}}}, service: shop, require: {{apiKey: {{keys: all}}}}, {limit}}}\n    \
         - {{service: shop, require: {{token: {{issuer: corp}}}}, {}}}",
        limit.replace("apiKey", "token.sub")
    );
    let issuer = format!(
        "  {{issuer: \"https://idp.example.com\", jwks: {{file: {:?}}}, audiences: orders, algorithms: ES256, tier: plan.name}}",
        corp.directory.path().join("jwks.json")
    );
    let set = load(
        &[
            document(
                "ApiKeys",
                "all",
                &format!("  keys:\n{}{}", gold.entry, plain.entry),
            ),
            document("Issuer", "corp", &issuer),
            document(
                "Service",
                "shop",
                &format!("  endpoints: [\"http://{}\"]", origin.address),
            ),
            document("Route", "main", &route),
        ]
        .concat(),
    );
    let lab = Plan::default().start(set);
    let mut client = Client::connect(&lab, H2).await;
    let token = |plan: serde_json::Value, sub| {
        format!("Bearer {}", corp.token_with(&json!({"sub": sub, "plan": plan})))
    };
    for (path, field, value, admitted) in [
        ("/keys", "x-api-key", gold.text, 3),
        ("/keys", "x-api-key", plain.text, 1),
        ("/", "authorization", token(json!({"name": "gold"}), "a"), 3),
        ("/", "authorization", token(json!({"name": "other"}), "b"), 1),
        ("/", "authorization", token(json!({"name": ["gold"]}), "c"), 1),
        ("/", "authorization", token(json!("gold"), "d"), 1),
    ] {
        for time in 0..4 {
            let mut request = client::get(path);
            request.headers_mut().insert(field, value.parse().unwrap());
            let reply = client.send(request).await.unwrap();
            assert_eq!(
                reply.status,
                if time < admitted { 200 } else { 429 },
                "{value} {time}"
            );
        }
    }
}
