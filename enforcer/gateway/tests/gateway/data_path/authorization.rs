//! What rules ask beside proofs: sources, names of certificates, claims and roles of tokens; and rules that only try.

use std::{fs, net::SocketAddr};

use enforcer_gateway::signal::Verdict;
use enforcer_model::PolicySet;
use enforcer_tls::config::ClientCertificates;
use rcgen::{CertificateParams, DnType, SanType};
use serde_json::{Value, json};

use crate::data_path::support::{
    Lab, Plan,
    client::{self, Client, H1, H2, Reply},
    corp::Corp,
    eventually,
    origin::Origin,
    pki::{self, HOST},
};

const SHOP: &str = "spiffe://example.com/ns/shop/sa/cart";

/// One route named `main` with these rules to `orders`, an issuer `corp` with these further fields, and the rest of
/// the set as an operator would write it.
pub(crate) fn written(corp: &Corp, origin: SocketAddr, issuer: &str, rules: &[&str]) -> PolicySet {
    let rules: String = rules
        .iter()
        .map(|rule| format!("    - {{service: orders, {rule}}}\n"))
        .collect();
    let yaml = format!(
        "apiVersion: enforcer.dev/v1
kind: Service
metadata: {{name: orders}}
spec: {{endpoints: ['http://{origin}']}}
---
apiVersion: enforcer.dev/v1
kind: Issuer
metadata: {{name: corp}}
spec:
  issuer: https://idp.example.com
  jwks: {{file: jwks.json}}
  audiences: orders
  algorithms: ES256
  {issuer}
---
apiVersion: enforcer.dev/v1
kind: Route
metadata: {{name: main}}
spec:
  hosts: [{HOST}]
  rules:
{rules}"
    );
    let file = corp.directory.path().join("policy.yaml");
    fs::write(&file, yaml).unwrap();
    enforcer_policy::load(&[file])
        .unwrap_or_else(|problems| panic!("{problems}"))
        .set
}

/// Asks for the path with the token.
pub(crate) async fn bearer(client: &mut Client, path: &str, token: &str) -> Reply {
    let mut request = client::get(path);
    let value = format!("Bearer {token}").parse().unwrap();
    request.headers_mut().insert("authorization", value);
    client.send(request).await.unwrap()
}

async fn is_counted(lab: &Lab, line: &str) {
    eventually(line, async || lab.metrics().lines().any(|each| each == line)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_and_roles_of_tokens() {
    let (origin, corp) = (Origin::start().await, Corp::new());
    let set = written(
        &corp,
        origin.address,
        "roles: realm_access.roles",
        &[
            "match: {path: {prefix: /claims}}, require: {token: {issuer: corp, claims: {region: [eu, us], 'https://example.com/level': 2, staff: true}}}",
            "match: {path: {prefix: /roles}}, require: {token: {issuer: corp, roles: [admin, auditor]}}",
        ],
    );
    let lab = Plan::default().start(set);
    let good = json!({"region": "us", "https://example.com/level": 2, "staff": true});
    let changed = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    for alpn in [H1, H2] {
        let mut client = Client::connect(&lab, alpn).await;
        for (claims, status) in [
            (good.clone(), 200),
            (changed("region", json!(["asia", "eu"])), 200),
            (changed("region", json!("asia")), 403),
            (changed("region", json!({"eu": "eu"})), 403),
            (changed("https://example.com/level", json!("2")), 403),
            (changed("staff", json!("true")), 403),
            (changed("staff", Value::Null), 403),
            (json!({}), 403),
        ] {
            let reply = bearer(&mut client, "/claims", &corp.token_with(&claims)).await;
            assert_eq!(reply.status, status, "{claims}");
        }
        for (claims, status) in [
            (json!({"realm_access": {"roles": ["auditor", "x", "admin"]}}), 200),
            (json!({"realm_access": {"roles": ["admin"]}}), 403),
            (json!({"roles": ["auditor", "admin"]}), 403),
            (json!({"realm_access": ["auditor", "admin"]}), 403),
        ] {
            let reply = bearer(&mut client, "/roles", &corp.token_with(&claims)).await;
            assert_eq!(reply.status, status, "{claims}");
        }
        assert_eq!(client.get("/claims").await.status, 401, "no token");
    }
    for (reason, count) in [("claims", 12), ("roles", 6), ("token_missing", 2)] {
        let line = format!(r#"enforcer_denials_total{{reason="{reason}",route="main"}} {count}"#);
        is_counted(&lab, &line).await;
    }
    assert_eq!(origin.requests(), 6, "what is denied reaches no service");
    lab.recorder
        .look(|seen| assert!(seen.failed.is_empty(), "nobody is blamed for too little"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_asks_cached_tokens_for_other_claims() {
    let (origin, corp) = (Origin::start().await, Corp::new());
    let of = |claims: &str| {
        let rule = format!("require: {{token: {{issuer: corp, claims: {{{claims}}}}}}}");
        written(&corp, origin.address, "leeway: 5s", &[&rule])
    };
    let lab = Plan::default().start(of("a: 1"));
    let mut client = Client::connect(&lab, H2).await;
    let token = corp.token_with(&json!({"a": 1, "b": 2}));
    assert_eq!(bearer(&mut client, "/", &token).await.status, 200);
    lab.policies.replace(of("a: 1, b: 2"));
    assert_eq!(
        bearer(&mut client, "/", &token).await.status,
        200,
        "the cache has kept `a` alone, and is not believed"
    );
    lab.policies.replace(of("a: 1, b: 3"));
    assert_eq!(bearer(&mut client, "/", &token).await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_certificates() {
    let (origin, corp) = (Origin::start().await, Corp::new());
    let set = written(
        &corp,
        origin.address,
        "leeway: 5s",
        &[
            "match: {path: {prefix: /dns}}, require: {mtls: {dns: '*.shop.example.com'}}",
            "match: {path: {prefix: /subject}}, require: {mtls: {subject: {cn: [cart, basket], o: Shop}}}",
            "match: {path: {prefix: /all}}, require: {mtls: {spiffe: 'spiffe://example.com/*', dns: cart.shop.example.com, subject: {cn: cart}}}",
        ],
    );
    let plan = Plan {
        client_certificates: ClientCertificates::Optional,
        ..Plan::default()
    };
    let lab = plan.start(set);
    let named = |dns: &'static str, cn: &'static str, o: &'static str| {
        move |params: &mut CertificateParams| {
            params
                .subject_alt_names
                .push(SanType::DnsName(dns.try_into().unwrap()));
            params.distinguished_name.push(DnType::CommonName, cn);
            params.distinguished_name.push(DnType::OrganizationName, o);
        }
    };
    type Change = Box<dyn FnOnce(&mut CertificateParams)>;
    let cases: [(Change, [u16; 3]); 5] = [
        (
            Box::new(named("cart.shop.example.com", "cart", "Shop")),
            [200, 200, 200],
        ),
        (
            Box::new(named("b.shop.example.com", "basket", "Shop")),
            [200, 200, 403],
        ),
        (
            Box::new(named("a.cart.shop.example.com", "cart", "Bank")),
            [403, 403, 403],
        ),
        (
            Box::new(named("cart.shop.example.com", "CN=cart,O=Shop", "Shop")),
            [200, 403, 403],
        ),
        (Box::new(|_| ()), [403, 403, 403]),
    ];
    for (change, statuses) in cases {
        let certificate: pki::Client = lab.pki.unusual_client(SHOP, change);
        let config = lab.pki.client_config(Some(certificate), H2);
        let mut client = Client::over(client::tls(lab.address, config).await.unwrap()).await;
        for (path, status) in ["/dns", "/subject", "/all"].into_iter().zip(statuses) {
            assert_eq!(client.get(path).await.status, status, "{path}");
        }
    }
    let mut stranger = Client::connect(&lab, H1).await;
    assert_eq!(stranger.get("/dns").await.status, 401);
    is_counted(
        &lab,
        r#"enforcer_denials_total{reason="certificate_names",route="main"} 9"#,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_and_rules_that_only_try() {
    let (origin, corp) = (Origin::start().await, Corp::new());
    let set = written(
        &corp,
        origin.address,
        "leeway: 5s",
        &[
            "match: {path: {prefix: /here}}, require: {anonymous: true, from: [127.0.0.0/8, '2001:db8::/32']}",
            "match: {path: {prefix: /elsewhere}}, require: {token: {issuer: corp}, from: [10.0.0.0/8]}",
            "match: {path: {prefix: /try}}, mode: shadow, require: {token: {issuer: corp, roles: admin}}",
        ],
    );
    let lab = Plan::default().start(set);
    let mut client = Client::connect(&lab, H2).await;
    assert_eq!(client.get("/here").await.status, 200);
    let reply = bearer(&mut client, "/elsewhere", "no.token.this").await;
    assert_eq!(reply.status, 403, "before anything is spent on the token");
    lab.recorder
        .look(|seen| assert!(seen.failed.is_empty() && seen.verified.is_empty()));
    assert_eq!(client.get("/try").await.status, 200, "counted, and let through");
    assert_eq!(bearer(&mut client, "/try", &corp.token("x")).await.status, 200);
    lab.recorder.look(|seen| {
        assert_eq!(
            seen.verdicts,
            [
                (Verdict::Allowed, 200),
                (Verdict::Forbidden, 403),
                (Verdict::Unauthenticated, 200),
                (Verdict::Forbidden, 200),
            ]
        );
    });
    for (reason, count) in [("source", 1), ("token_missing", 1), ("roles", 1)] {
        let line = format!(r#"enforcer_denials_total{{reason="{reason}",route="main"}} {count}"#);
        is_counted(&lab, &line).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions() {
    let (origin, corp) = (Origin::start().await, Corp::new());
    let set = written(
        &corp,
        origin.address,
        "leeway: 5s",
        &[
            "match: {path: {prefix: /tenant}}, require: {token: {issuer: corp}, when: \"request.headers['x-tenant'] in token.claims.tenants && (request.method == 'GET' || 'orders:write' in token.scopes)\"}",
            "match: {path: {prefix: /open}}, require: {anonymous: true, when: \"cidr('127.0.0.0/8').containsIP(request.source) && request.query.id.matches('^[0-9]+$')\"}",
            "match: {path: {prefix: /certificate}}, require: {mtls: {}, when: \"certificate.spiffe.endsWith('/cart')\"}",
        ],
    );
    let plan = Plan {
        client_certificates: ClientCertificates::Optional,
        ..Plan::default()
    };
    let lab = plan.start(set);
    for alpn in [H1, H2] {
        let config = lab.pki.client_config(Some(lab.pki.client(SHOP)), alpn);
        let mut client = Client::over(client::tls(lab.address, config).await.unwrap()).await;
        let claims = json!({"tenants": ["blue", "green"], "scope": "orders:read"});
        for (method, tenant, claims, status) in [
            ("GET", Some("blue"), claims.clone(), 200),
            ("GET", Some("red"), claims.clone(), 403),
            ("GET", None, claims.clone(), 403),
            ("GET", Some("blue"), json!({}), 403),
            ("POST", Some("blue"), claims.clone(), 403),
            (
                "POST",
                Some("blue"),
                json!({"tenants": ["blue"], "scope": "orders:write"}),
                200,
            ),
        ] {
            let mut request = client::get("/tenant");
            *request.method_mut() = method.parse().unwrap();
            let token = format!("Bearer {}", corp.token_with(&claims));
            request
                .headers_mut()
                .insert("authorization", token.parse().unwrap());
            if let Some(tenant) = tenant {
                request.headers_mut().insert("x-tenant", tenant.parse().unwrap());
            }
            let reply = client.send(request).await.unwrap();
            assert_eq!(reply.status, status, "{method} {tenant:?} {claims}");
        }
        for (path, status) in [
            ("/open?id=7", 200),
            ("/open?id=7a", 403),
            ("/open?id=7&id=8", 403),
            ("/open", 403),
            ("/certificate", 200),
        ] {
            assert_eq!(client.get(path).await.status, status, "{path}");
        }
    }
    is_counted(
        &lab,
        r#"enforcer_denials_total{reason="condition",route="main"} 14"#,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_are_forwarded_and_cannot_be_forged() {
    let (origin, corp) = (Origin::start().await, Corp::new());
    let set = written(
        &corp,
        origin.address,
        "leeway: 5s",
        &[
            "match: {path: {prefix: /told}}, require: {token: {issuer: corp}}, forward: {claims: {x-user-email: email, x-user-roles: realm.roles}, token: false}",
            "match: {path: {prefix: /try}}, mode: shadow, require: {token: {issuer: corp}}, forward: {claims: {x-user-email: email}}",
            "require: {token: {issuer: corp}}",
        ],
    );
    let lab = Plan::default().start(set);
    let ask = async |client: &mut Client, path: &str, token: Option<&str>| {
        let mut request = client::get(path);
        for name in ["x-user-email", "x_user_email", "X-User.Roles"] {
            let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            request
                .headers_mut()
                .insert(name, "root@example.com".parse().unwrap());
        }
        if let Some(token) = token {
            let value = format!("Bearer {token}").parse().unwrap();
            request.headers_mut().insert("authorization", value);
        }
        assert_eq!(client.send(request).await.unwrap().status, 200, "{path}");
        origin.last().headers
    };
    let good = corp.token_with(&json!({"email": "alice@example.com", "realm": {"roles": ["a", "b"]}}));
    let bad = corp.token_with(&json!({"email": "alice\r\nx-admin: 1", "realm": {"roles": 1}}));
    for alpn in [H1, H2] {
        let mut client = Client::connect(&lab, alpn).await;
        let told = ask(&mut client, "/told", Some(&good)).await;
        assert_eq!(told["x-user-email"], "alice@example.com");
        assert_eq!(told["x-user-roles"], "a,b");
        for absent in ["authorization", "x_user_email", "x-user.roles"] {
            assert!(!told.contains_key(absent), "{absent}");
        }
        let told = ask(&mut client, "/told", Some(&bad)).await;
        assert!(!told.contains_key("x-user-email") && !told.contains_key("x-admin"));
        assert_eq!(told["x-user-roles"], "1");
        let told = ask(&mut client, "/try", None).await;
        assert!(!told.contains_key("x-user-email") && !told.contains_key("x_user_email"));
        let told = ask(&mut client, "/other", Some(&good)).await;
        assert_eq!(
            told["x-user-email"], "root@example.com",
            "another rule does not speak of it"
        );
        assert!(told.contains_key("authorization"));
    }
    is_counted(&lab, "enforcer_claims_not_forwarded_total 2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_may_be_enforced_in_a_route_that_tries() {
    let (origin, corp) = (Origin::start().await, Corp::new());
    let rules = [
        "match: {path: {prefix: /firm}}, mode: enforce, require: {token: {issuer: corp}}",
        "require: {token: {issuer: corp}}",
    ];
    let mut set = written(&corp, origin.address, "leeway: 5s", &rules);
    let mut route = (*set.routes[0]).clone();
    route.mode = enforcer_model::Mode::Shadow;
    set.routes = vec![route.into()];
    let lab = Plan::default().start(set);
    let mut client = Client::connect(&lab, H1).await;
    assert_eq!(client.get("/firm").await.status, 401);
    assert_eq!(client.get("/").await.status, 200);
}
