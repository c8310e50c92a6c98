//! Proofs of possession (RFC 9449) over real connections: those that hold, and those that do not.

use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use enforcer_gateway::signal::Verdict;
use enforcer_model::Dpop;
use http::{Method, Request};
use rcgen::KeyPair;
use serde_json::{Value, json};

use crate::data_path::{
    hostile_tokens::{Forge, with},
    support::{
        Plan,
        client::{self, Client, H1, H2, Reply},
        origin::Origin,
    },
};

const URL: &str = "https://api.example.com/";

fn hash(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, bytes.as_ref()))
}

/// A client with a key, to which its tokens are bound.
struct Holder<'a> {
    forge: &'a Forge,
    key: KeyPair,
    token: String,
}

impl<'a> Holder<'a> {
    fn new(forge: &'a Forge) -> Self {
        let key = KeyPair::generate().unwrap();
        let token = forge.claim("cnf", json!({"jkt": thumbprint(&jwk(forge, &key))}));
        Self { forge, key, token }
    }

    fn header(&self) -> Value {
        json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk(self.forge, &self.key)})
    }

    /// For `GET /`, new each time.
    fn claims(&self) -> Value {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let id = COUNT.fetch_add(1, Ordering::Relaxed);
        json!({
            "jti": format!("proof-{id}"), "htm": "GET", "htu": URL, "iat": self.forge.now,
            "ath": hash(&self.token),
        })
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        Forge::signed_by(&self.key, &header.to_string(), &claims.to_string())
    }

    fn proof(&self) -> String {
        self.sign(&self.header(), &self.claims())
    }

    /// With one member of the header replaced, or taken out by null.
    fn head(&self, name: &str, value: Value) -> String {
        self.sign(&with(self.header(), name, value), &self.claims())
    }

    /// With one claim replaced, or taken out by null.
    fn claim(&self, name: &str, value: Value) -> String {
        self.sign(&self.header(), &with(self.claims(), name, value))
    }
}

/// Without the name that the forge gives keys.
fn jwk(forge: &Forge, key: &KeyPair) -> Value {
    with(forge.public(key), "kid", Value::Null)
}

fn thumbprint(jwk: &Value) -> String {
    let [x, y] = ["x", "y"].map(|name| jwk[name].as_str().unwrap());
    hash(format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#))
}

async fn send(client: &mut Client, method: Method, path: &str, token: &str, proofs: &[&str]) -> Reply {
    let mut request = Request::new(client::full(""));
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().unwrap();
    let headers = request.headers_mut();
    headers.insert("authorization", token.parse().unwrap());
    for proof in proofs {
        headers.append("dpop", proof.parse().unwrap());
    }
    client.send(request).await.unwrap()
}

fn challenge(reply: &Reply) -> &str {
    reply.headers["www-authenticate"].to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn proofs_that_hold_open_the_way_once() {
    let (origin, forge) = (Origin::start().await, Forge::new());
    let lab = Plan::default().start(forge.set(&origin));
    let holder = Holder::new(&forge);
    let token = format!("DPoP {}", holder.token);
    for alpn in [H1, H2] {
        let mut client = Client::connect(&lab, alpn).await;
        for (method, path, claims) in [
            (Method::GET, "/", json!({})),
            (Method::POST, "/", json!({"htm": "POST"})),
            (Method::GET, "/?a=b", json!({})),
            (
                Method::GET,
                "/a/%62",
                json!({"htu": "https://api.example.com/a/b"}),
            ),
            (
                Method::GET,
                "/",
                json!({"htu": "HTTPS://API.example.com:443?c#d"}),
            ),
            (Method::GET, "/", json!({"iat": forge.now - 30})),
            (Method::GET, "/", json!({"nonce": "of another server", "more": 1})),
        ] {
            let claims = claims.as_object().unwrap().iter();
            let claims = claims.fold(holder.claims(), |all, (name, value)| {
                with(all, name, value.clone())
            });
            let proof = holder.sign(&holder.header(), &claims);
            let reply = send(&mut client, method, path, &token, &[&proof]).await;
            assert_eq!(reply.status, 200, "{claims} {reply:?}");
        }
        let seen = origin.state.seen.lock().unwrap().last().cloned().unwrap();
        assert!(
            !seen.headers.contains_key("dpop"),
            "the proof was for the gateway"
        );
        assert!(seen.headers.contains_key("authorization"));
        assert_eq!(seen.headers["x-enforcer-subject"], "alice");
    }

    let proof = holder.proof();
    let mut first = Client::connect(&lab, H1).await;
    let reply = send(&mut first, Method::GET, "/", &token, &[&proof]).await;
    assert_eq!(reply.status, 200);
    // By every worker, and also after the policy was put in force again.
    for reload in [false, true] {
        if reload {
            lab.policies.replace(forge.set(&origin));
        }
        for _ in 0..8 {
            let mut other = Client::connect(&lab, H2).await;
            let reply = send(&mut other, Method::GET, "/", &token, &[&proof]).await;
            assert_eq!(reply.status, 401, "{reply:?}");
            assert!(challenge(&reply).contains("used before"), "{reply:?}");
        }
    }
    let metrics = lab.metrics();
    let counted = "enforcer_dpop_refusals_total{reason=\"replayed\"} 16";
    assert!(metrics.contains(counted), "{metrics}");
}

const PROOF: &str = "invalid_dpop_proof";
const TOKEN: &str = "invalid_token";

/// Description, `Authorization`, the `DPoP` fields, the error of the challenge.
type Case = (String, String, Vec<String>, &'static str);

fn by_header(holder: &Holder<'_>, other: &Holder<'_>) -> Vec<(String, String)> {
    let own = jwk(holder.forge, &holder.key);
    let private = with(own.clone(), "d", json!("AAAA"));
    let of_other = jwk(other.forge, &other.key);
    [
        ("typ", json!(null)),
        ("typ", json!("JWT")),
        ("typ", json!("at+jwt")),
        ("typ", json!(["dpop+jwt"])),
        ("alg", json!(null)),
        ("alg", json!("none")),
        ("alg", json!("HS256")),
        ("alg", json!("ES384")),
        ("alg", json!("RS256")),
        ("alg", json!("ES256K")),
        ("alg", json!(1)),
        ("jwk", json!(null)),
        ("jwk", json!("key")),
        ("jwk", json!([])),
        ("jwk", json!({})),
        ("jwk", json!({"kty": "oct", "k": "AAAA"})),
        ("jwk", private),
        ("jwk", with(own.clone(), "y", json!(null))),
        ("jwk", with(own.clone(), "y", own["x"].clone())),
        ("jwk", with(own.clone(), "use", json!("enc"))),
        ("jwk", with(own.clone(), "alg", json!("ES384"))),
        ("jwk", of_other),
        ("crit", json!(["b64"])),
    ]
    .into_iter()
    .map(|(name, value)| (format!("{name}: {value}"), holder.head(name, value)))
    .collect()
}

fn by_claim(holder: &Holder<'_>) -> Vec<(String, String)> {
    let now = holder.forge.now;
    [
        ("htm", json!(null)),
        ("htm", json!("POST")),
        ("htm", json!("get")),
        ("htm", json!(["GET"])),
        ("htu", json!(null)),
        ("htu", json!("")),
        ("htu", json!("/")),
        ("htu", json!("http://api.example.com/")),
        ("htu", json!("https://api.example.com:8443/")),
        ("htu", json!("https://api.example.org/")),
        ("htu", json!("https://api.example.com/other")),
        ("htu", json!("https://api.example.com@evil.example/")),
        ("htu", json!([URL])),
        ("iat", json!(null)),
        ("iat", json!(now - 70)),
        ("iat", json!(now + 60)),
        ("iat", json!(now.to_string())),
        ("iat", json!(-1)),
        ("iat", json!(1e300)),
        ("exp", json!(now - 30)),
        ("nbf", json!(now + 60)),
        ("jti", json!(null)),
        ("jti", json!("")),
        ("jti", json!("a".repeat(257))),
        ("jti", json!(7)),
        ("ath", json!(null)),
        ("ath", json!(hash("another token"))),
        ("ath", json!(format!("{}=", hash(&holder.token)))),
        ("ath", json!(hash(format!("DPoP {}", holder.token)))),
    ]
    .into_iter()
    .map(|(name, value)| (format!("{name}: {value}"), holder.claim(name, value)))
    .collect()
}

fn by_form(holder: &Holder<'_>, other: &Holder<'_>) -> Vec<(String, String)> {
    let good = holder.proof();
    let parts: Vec<&str> = good.split('.').collect();
    let [header, claims, signature] = parts[..] else {
        unreachable!("a proof has three parts")
    };
    let named = |name: &str, proof: String| (name.to_owned(), proof);
    let text = |header: &str, claims: &str| Forge::signed_by(&holder.key, header, claims);
    let (head, body) = (holder.header().to_string(), holder.claims().to_string());
    vec![
        named("empty", String::new()),
        named("a word", "proof".to_owned()),
        named("no signature", format!("{header}.{claims}.")),
        named("two parts", format!("{header}.{claims}")),
        named("four parts", format!("{good}.x")),
        named("cut", good[..good.len() - 4].to_owned()),
        named("padded", format!("{good}==")),
        named("two in one", format!("{good}, {good}")),
        named("too long", "a".repeat(8193)),
        named(
            "zeros for a signature",
            format!("{header}.{claims}.{}", URL_SAFE_NO_PAD.encode([0; 64])),
        ),
        named(
            "of another proof",
            format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(&body)),
        ),
        named(
            "signed by another key",
            Forge::signed_by(&other.key, &head, &body),
        ),
        named("another client's", other.proof()),
        named("claims that are no object", text(&head, "[]")),
        named("claims that are no JSON", text(&head, "{")),
        named(
            "a claim twice",
            text(&head, &body.replacen('{', "{\"htm\":\"GET\",", 1)),
        ),
        named(
            "a member twice",
            text(&head.replacen('{', "{\"alg\":\"ES256\",", 1), &body),
        ),
        named("the token itself", holder.token.clone()),
    ]
}

fn cases(holder: &Holder<'_>, other: &Holder<'_>) -> Vec<Case> {
    let forge = holder.forge;
    let token = format!("DPoP {}", holder.token);
    let hostile = [by_header(holder, other), by_claim(holder), by_form(holder, other)].concat();
    let mut cases: Vec<Case> = hostile
        .into_iter()
        .map(|(name, proof)| (name, token.clone(), vec![proof], PROOF))
        .collect();
    let jkt = thumbprint(&jwk(forge, &holder.key));
    let plain = forge.sign(&forge.header(), &forge.claims());
    let expired = with(forge.claims(), "exp", json!(forge.now - 60));
    let expired = forge.sign(&forge.header(), &with(expired, "cnf", json!({"jkt": jkt})));
    let twice = forge.claim("cnf", json!({"jkt": jkt, "x5t#S256": jkt}));
    let for_token = |token: &str| holder.claim("ath", json!(hash(token)));
    let mut more = |name: &str, token: String, proofs: Vec<String>, error| {
        cases.push((name.to_owned(), token, proofs, error));
    };
    more("no proof", token.clone(), vec![], PROOF);
    more(
        "two proofs",
        token.clone(),
        vec![holder.proof(), holder.proof()],
        PROOF,
    );
    more(
        "a bound token as bearer",
        format!("Bearer {}", holder.token),
        vec![],
        TOKEN,
    );
    more(
        "a bound token as bearer with its proof",
        format!("Bearer {}", holder.token),
        vec![holder.proof()],
        TOKEN,
    );
    more(
        "a plain token by DPoP",
        format!("DPoP {plain}"),
        vec![for_token(&plain)],
        TOKEN,
    );
    more(
        "an expired token",
        format!("DPoP {expired}"),
        vec![for_token(&expired)],
        TOKEN,
    );
    more(
        "a token bound to two",
        format!("DPoP {twice}"),
        vec![for_token(&twice)],
        TOKEN,
    );
    more(
        "another client's token",
        format!("DPoP {}", other.token),
        vec![for_token(&other.token)],
        PROOF,
    );
    cases
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_proofs_are_refused_and_told_as_rfc_9449_says() {
    let (origin, forge) = (Origin::start().await, Forge::new());
    let lab = Plan::default().start(forge.set(&origin));
    let [holder, other] = [Holder::new(&forge), Holder::new(&forge)];
    let token = format!("DPoP {}", holder.token);
    /// Refused, and no sign of a forgery.
    const HARMLESS: [&str; 9] = [
        "send it by the scheme",
        "the token is expired",
        "must be bound to a key",
        "and there is none",
        "must be an asymmetric algorithm",
        "has crit",
        "is too old",
        "from the future",
        "must have the nonce",
    ];
    for alpn in [H1, H2] {
        let cases = cases(&holder, &other);
        assert!(cases.len() >= 70, "{}", cases.len());
        let mut client = Client::connect(&lab, alpn).await;
        let before = origin.requests();
        let reply = send(&mut client, Method::GET, "/", &token, &[&holder.proof()]).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        for (name, authorization, proofs, error) in &cases {
            let proofs: Vec<&str> = proofs.iter().map(String::as_str).collect();
            let failed = lab.recorder.look(|seen| seen.failed.len());
            let reply = send(&mut client, Method::GET, "/", authorization, &proofs).await;
            assert_eq!(reply.status, 401, "{name}: {reply:?}");
            let told = challenge(&reply);
            let scheme = authorization.split(' ').next().unwrap();
            assert!(
                told.starts_with(&format!("{scheme} realm=\"main\"")),
                "{name}: {told}"
            );
            assert!(told.contains(&format!("error=\"{error}\"")), "{name}: {told}");
            assert!(told.contains("algs=\"ES256 "), "{name}: {told}");
            assert_eq!(
                lab.recorder.look(|seen| seen.failed.len()),
                failed + usize::from(!HARMLESS.iter().any(|harmless| told.contains(harmless))),
                "{name}: {told}"
            );
        }
        let reply = send(&mut client, Method::GET, "/", &token, &[&holder.proof()]).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(
            origin.requests(),
            before + 2,
            "nothing hostile reaches the service"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn proofs_may_have_to_have_a_nonce_of_the_gateway() {
    let (origin, forge) = (Origin::start().await, Forge::new());
    let dpop = Dpop {
        nonce: true,
        ..Dpop::default()
    };
    let lab = Plan::default().start(forge.set_with(&origin, dpop));
    let holder = Holder::new(&forge);
    let token = format!("DPoP {}", holder.token);
    for alpn in [H1, H2] {
        let mut client = Client::connect(&lab, alpn).await;
        for proof in [
            holder.proof(),
            holder.claim("nonce", json!("")),
            holder.claim("nonce", json!("of another server")),
            holder.claim("nonce", json!(7)),
        ] {
            let reply = send(&mut client, Method::GET, "/", &token, &[&proof]).await;
            assert_eq!(reply.status, 401, "{reply:?}");
            assert!(
                challenge(&reply).contains("error=\"use_dpop_nonce\""),
                "{reply:?}"
            );
            let nonce = reply.headers["dpop-nonce"].to_str().unwrap();
            let proof = holder.claim("nonce", json!(nonce));
            let reply = send(&mut client, Method::GET, "/", &token, &[&proof]).await;
            assert_eq!(reply.status, 200, "{reply:?}");
            let again = send(&mut client, Method::GET, "/", &token, &[&proof]).await;
            assert!(challenge(&again).contains("used before"), "{again:?}");
        }
    }
    // Learning a nonce is no failed authentication, using a proof twice is.
    assert_eq!(lab.recorder.look(|seen| seen.failed.len()), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_may_require_bound_tokens() {
    let (origin, forge) = (Origin::start().await, Forge::new());
    let dpop = Dpop {
        required: true,
        ..Dpop::default()
    };
    let lab = Plan::default().start(forge.set_with(&origin, dpop));
    let holder = Holder::new(&forge);
    let mut client = Client::connect(&lab, H2).await;
    let none = client.get("/").await;
    assert_eq!(none.status, 401);
    let told = challenge(&none);
    assert!(told.starts_with("DPoP realm=\"main\", algs=\"ES256 "), "{told}");

    let plain = forge.sign(&forge.header(), &forge.claims());
    let reply = send(&mut client, Method::GET, "/", &format!("Bearer {plain}"), &[]).await;
    assert_eq!(reply.status, 401);
    let told = challenge(&reply);
    assert!(
        told.contains("error=\"invalid_token\"") && told.contains(", DPoP algs="),
        "{told}"
    );
    let token = format!("DPoP {}", holder.token);
    let reply = send(&mut client, Method::GET, "/", &token, &[&holder.proof()]).await;
    assert_eq!(reply.status, 200, "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn shadow_mode_counts_what_proofs_lack() {
    let (origin, forge) = (Origin::start().await, Forge::new());
    let mut set = forge.set(&origin);
    let route = std::sync::Arc::make_mut(&mut set.routes[0]);
    route.mode = enforcer_model::Mode::Shadow;
    let lab = Plan::default().start(set);
    let holder = Holder::new(&forge);
    let mut client = Client::connect(&lab, H1).await;
    let token = format!("Bearer {}", holder.token);
    let reply = send(&mut client, Method::GET, "/", &token, &[&holder.proof()]).await;
    assert_eq!(reply.status, 200);
    let verdict = lab.recorder.look(|seen| seen.verdicts[0]);
    assert_eq!(verdict, (Verdict::Unauthenticated, 200));
    let seen = origin.state.seen.lock().unwrap()[0].clone();
    assert!(!seen.headers.contains_key("dpop"));
}
