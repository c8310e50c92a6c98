//! Tokens that their issuer is asked about (RFC 7662), over real connections to a real issuer.

use std::{
    collections::HashMap,
    fs,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use axum::{
    Router, extract,
    response::{IntoResponse, Response},
    routing::post,
};
use enforcer_model::{ApiKeyRequirement, PolicySet, Requirement};
use http::{HeaderMap, HeaderName, StatusCode};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::Semaphore,
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;

use crate::data_path::{
    api_keys::{document, key, load},
    support::{
        Lab, Plan,
        client::{self, Client, H1, H2, Reply},
        eventually, in_time,
        origin::Origin,
        pki::HOST,
    },
};

/// An issuer that answers questions about tokens.
struct Server {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
    /// Holds the policy and the secret.
    directory: TempDir,
}

struct State {
    /// What it says about the tokens that it knows, by their forms.
    known: Mutex<HashMap<String, Value>>,
    /// What it answers instead, if that is set.
    instead: Mutex<Option<(StatusCode, String)>>,
    heads: Mutex<Vec<HeaderMap>>,
    asked: AtomicUsize,
    /// Each answer takes a permit while it is made.
    gate: Semaphore,
}

async fn introspect(
    extract::State(state): extract::State<Arc<State>>,
    headers: HeaderMap,
    body: String,
) -> Response {
    state.heads.lock().unwrap().push(headers);
    state.asked.fetch_add(1, Ordering::SeqCst);
    let _permit = state.gate.acquire().await.unwrap();
    let instead = state.instead.lock().unwrap().clone();
    if let Some((status, text)) = instead {
        return (status, [("location", "/introspect")], text).into_response();
    }
    let known = state.known.lock().unwrap().get(&body).cloned();
    axum::Json(known.unwrap_or_else(|| json!({"active": false}))).into_response()
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            known: Mutex::default(),
            instead: Mutex::default(),
            heads: Mutex::default(),
            asked: AtomicUsize::new(0),
            gate: Semaphore::new(1000),
        });
        let router = Router::new()
            .route("/introspect", post(introspect))
            .with_state(Arc::clone(&state));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            address,
            state,
            task,
            directory: TempDir::new().unwrap(),
        }
    }

    /// Knows `token`, as a form has it.
    fn knows(&self, token: &str, answer: Value) {
        let form = format!("token={token}&token_type_hint=access_token");
        self.state.known.lock().unwrap().insert(form, answer);
    }

    fn says(&self, status: u16, text: impl Into<String>) {
        let status = StatusCode::from_u16(status).unwrap();
        *self.state.instead.lock().unwrap() = Some((status, text.into()));
    }

    fn asked(&self) -> usize {
        self.state.asked.load(Ordering::SeqCst)
    }

    /// A policy as an operator writes it, whose issuer is this, with further settings of `introspection`.
    fn set(&self, origin: &Origin, settings: &str) -> PolicySet {
        let yaml = format!(
            "apiVersion: enforcer.dev/v1
kind: Service
metadata: {{name: orders}}
spec: {{endpoints: ['http://{}']}}
---
apiVersion: enforcer.dev/v1
kind: Issuer
metadata: {{name: corp}}
spec:
  issuer: https://idp.example.com
  introspection: {{url: 'http://{}/introspect', clientId: 'gate:way', clientSecretFile: secret, pattern: '.+', {settings}}}
  audiences: orders
---
apiVersion: enforcer.dev/v1
kind: Route
metadata: {{name: main}}
spec:
  hosts: [{HOST}]
  rules:
    - {{service: orders, require: {{token: {{issuer: corp, scopes: ['orders:read']}}}}}}
",
            origin.address, self.address
        );
        let file = self.directory.path().join("policy.yaml");
        fs::write(self.directory.path().join("secret"), "p/w d\n").unwrap();
        fs::write(&file, yaml).unwrap();
        enforcer_policy::load(&[file])
            .unwrap_or_else(|problems| panic!("{problems}"))
            .set
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().as_secs()
}

/// What is said about a token that holds, with some of it replaced.
fn active(changes: Value) -> Value {
    let mut answer = json!({
        "active": true, "iss": "https://idp.example.com", "aud": "orders", "sub": "alice",
        "client_id": "web", "scope": "orders:read", "exp": now() + 300,
    });
    if let (Some(members), Value::Object(changes)) = (answer.as_object_mut(), changes) {
        members.extend(changes);
    }
    answer
}

async fn send(client: &mut Client, token: &str) -> Reply {
    let mut request = client::get("/");
    let value = format!("Bearer {token}").parse().unwrap();
    request.headers_mut().insert("authorization", value);
    client.send(request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_issuer_is_asked_once_and_believed_for_a_while() {
    let (origin, server) = (Origin::start().await, Server::start().await);
    let lab = Plan::default().start(server.set(&origin, ""));
    server.knows("opaque%2B%2F%3D", active(json!({})));
    for round in 0..2 {
        // Over connections of all workers.
        for alpn in [H1, H2, H1, H2, H1, H2] {
            let mut client = Client::connect(&lab, alpn).await;
            for _ in 0..3 {
                let reply = send(&mut client, "opaque+/=").await;
                assert_eq!(reply.status, 200, "{reply:?}");
            }
        }
        assert_eq!(server.asked(), 1, "round {round}");
        // What is known stays with a policy that asks in the same way.
        lab.policies.replace(lab.policies.current().set.clone());
    }
    let seen = origin.state.seen.lock().unwrap().last().cloned().unwrap();
    assert_eq!(seen.headers["x-enforcer-subject"], "alice");
    assert_eq!(seen.headers["x-enforcer-client"], "web");
    let head = server.state.heads.lock().unwrap()[0].clone();
    // `gate%3Away:p%2Fw%20d`: RFC 6749, section 2.3.1.
    assert_eq!(head["authorization"], "Basic Z2F0ZSUzQXdheTpwJTJGdyUyMGQ=");
    assert_eq!(head["content-type"], "application/x-www-form-urlencoded");
    assert_eq!(head["accept"], "application/json");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_issuer_says_is_checked_as_claims_are() {
    let (origin, server) = (Origin::start().await, Server::start().await);
    let lab = Plan::default().start(server.set(&origin, ""));
    let thumbprint = "A".repeat(43);
    let cases = [
        ("unknown", json!({"active": false}), 401),
        ("no.json.web-token", active(json!({"active": "true"})), 401),
        ("audience", active(json!({"aud": "billing"})), 401),
        ("no-audience", active(json!({"aud": null})), 401),
        ("issuer", active(json!({"iss": "https://evil.example"})), 401),
        ("expired", active(json!({"exp": now() - 120})), 401),
        ("early", active(json!({"nbf": now() + 120})), 401),
        ("scope", active(json!({"scope": "orders:write"})), 403),
        ("form", active(json!({"scope": ["orders:read"]})), 401),
        (
            "certificate",
            active(json!({"cnf": {"x5t#S256": thumbprint}})),
            401,
        ),
        ("key", active(json!({"cnf": {"jkt": thumbprint}})), 401),
        // It says that there is a key, and not which one.
        ("keyless", active(json!({"token_type": "DPoP"})), 401),
        ("bearer", active(json!({"token_type": "Bearer"})), 200),
        ("right", active(json!({})), 200),
    ];
    let mut client = Client::connect(&lab, H2).await;
    for (token, answer, _) in &cases {
        server.knows(token, answer.clone());
    }
    for _ in 0..2 {
        for (token, _, status) in &cases {
            let reply = send(&mut client, token).await;
            assert_eq!(reply.status, *status, "{token}: {reply:?}");
            if *status == 401 {
                let told = reply.headers["www-authenticate"].to_str().unwrap();
                assert!(told.contains("error=\"invalid_token\""), "{token}: {told}");
            }
        }
        assert_eq!(server.asked(), cases.len(), "a no is believed for a while too");
    }
    assert_eq!(origin.requests(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn those_with_the_same_token_wait_for_one_question() {
    let (origin, server) = (Origin::start().await, Server::start().await);
    let lab = Plan::default().start(server.set(&origin, "timeout: 10s"));
    server.knows("shared", active(json!({})));
    server.state.gate.forget_permits(1000);
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let mut client = Client::connect(&lab, H1).await;
        waiting.push(tokio::spawn(async move { send(&mut client, "shared").await }));
    }
    eventually("a question", async || server.asked() == 1).await;
    server.state.gate.add_permits(1000);
    for reply in waiting {
        assert_eq!(reply.await.unwrap().status, 200);
    }
    assert_eq!(server.asked(), 1);
}

/// A client at another address than all others have.
async fn elsewhere(lab: &Lab) -> Client {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let stream = socket.connect(lab.address).await.unwrap();
    let stream = TlsConnector::from(lab.pki.client_config(None, H1))
        .connect(ServerName::try_from(HOST).unwrap(), stream)
        .await
        .unwrap();
    Client::over(stream).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_source_leaves_questions_for_others() {
    /// An eighth of all that may be under way.
    const SHARE: usize = 24;
    let (origin, server) = (Origin::start().await, Server::start().await);
    let lab = Plan::default().start(server.set(&origin, "timeout: 10s"));
    server.knows("good", active(json!({})));
    server.state.gate.forget_permits(1000);
    let mut waiting = Vec::new();
    let mut clients = Vec::new();
    for connection in 0..4 {
        let client = Client::connect(&lab, H2).await;
        let Client::Http2(sender) = &client else {
            unreachable!("HTTP/2 was asked for")
        };
        for stream in 0..SHARE / 4 {
            let mut client = Client::Http2(sender.clone());
            let token = format!("t{connection}-{stream}");
            waiting.push(tokio::spawn(async move { send(&mut client, &token).await }));
        }
        clients.push(client);
    }
    eventually("the share's questions", async || server.asked() == SHARE).await;
    let failures = lab.recorder.look(|seen| seen.failed.len());
    let mut client = Client::connect(&lab, H1).await;
    for _ in 0..2 {
        let reply = send(&mut client, "one-more").await;
        assert_eq!(reply.status, 429, "{reply:?}");
        assert_eq!(reply.headers["retry-after"], "1");
        assert!(!reply.headers.contains_key("www-authenticate"));
    }
    assert_eq!(
        lab.recorder.look(|seen| seen.failed.len()),
        failures,
        "that is no failed authentication"
    );
    let mut other = elsewhere(&lab).await;
    let other = tokio::spawn(async move { send(&mut other, "good").await });
    eventually("another's question", async || server.asked() == SHARE + 1).await;
    server.state.gate.add_permits(1000);
    assert_eq!(other.await.unwrap().status, 200);
    for reply in waiting {
        assert_eq!(reply.await.unwrap().status, 401);
    }
    let reply = send(&mut client, "one-more").await;
    assert_eq!(reply.status, 401, "there is room again");
    drop(clients);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_cannot_be_asked_lets_in_who_is_known_and_nobody_else() {
    let (origin, server) = (Origin::start().await, Server::start().await);
    let lab: Lab = Plan::default().start(server.set(&origin, "cache: 1s, timeout: 1s"));
    let mut client = Client::connect(&lab, H1).await;
    let huge = format!("{{\"active\": true, \"more\": \"{}\"}}", "a".repeat(70_000));
    let twice = active(json!({}))
        .to_string()
        .replacen('{', "{\"active\":false,", 1);
    for (what, status, text) in [
        ("an error", 500, "{}".to_owned()),
        ("refused credentials", 401, "{}".to_owned()),
        ("a redirect", 307, "{}".to_owned()),
        ("no JSON", 200, "<html>".to_owned()),
        ("no object", 200, "[true]".to_owned()),
        ("a name twice", 200, twice),
        ("too much", 200, huge),
    ] {
        server.says(status, text);
        let asked = server.asked();
        for _ in 0..2 {
            let reply = send(&mut client, "some").await;
            assert_eq!(reply.status, 503, "{what}: {reply:?}");
        }
        assert_eq!(server.asked(), asked + 2, "{what} is no answer that is kept");
    }
    // One that does not answer in time.
    server.state.gate.forget_permits(1000);
    assert_eq!(send(&mut client, "some").await.status, 503);
    server.state.gate.add_permits(1000);

    *server.state.instead.lock().unwrap() = None;
    server.knows("held", active(json!({})));
    assert_eq!(send(&mut client, "held").await.status, 200);
    server.says(500, "");
    let failures = lab.recorder.look(|seen| seen.failed.len());
    // It is known for a second, and then no more.
    eventually("the answer ends", async || {
        send(&mut client, "held").await.status == 503
    })
    .await;
    assert_eq!(
        lab.recorder.look(|seen| seen.failed.len()),
        failures,
        "that is nobody's failed authentication"
    );
    *server.state.instead.lock().unwrap() = None;
    assert_eq!(send(&mut client, "held").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn l5_a_key_that_is_taken_away_while_the_issuer_is_asked_is_refused() {
    let (origin, server) = (Origin::start().await, Server::start().await);
    let his = key("his", "");
    let keys = document("ApiKeys", "partners", &format!("  keys:\n{}", his.entry));
    let mut set = server.set(&origin, "");
    let mut route = (*set.routes[0]).clone();
    if let Requirement::Proof { api_key, .. } = &mut route.rules[0].require {
        *api_key = Some(Box::new(ApiKeyRequirement {
            keys: vec!["partners".parse().unwrap()],
            roles: Vec::new(),
            header: HeaderName::from_static("x-api-key"),
        }));
    }
    set.routes = vec![Arc::new(route)];
    let without = set.clone();
    set.api_keys = load(&keys).api_keys;
    let with = set.clone();
    let lab = Plan::default().start(set);
    for (token, later, status) in [("one", &with, 200), ("two", &without, 401)] {
        server.knows(token, active(json!({})));
        let held = server.state.gate.acquire_many(1000).await.unwrap();
        let mut client = Client::connect(&lab, H1).await;
        let mut request = client::get("/");
        let fields = request.headers_mut();
        fields.insert("authorization", format!("Bearer {token}").parse().unwrap());
        fields.insert("x-api-key", his.text.parse().unwrap());
        let before = server.asked();
        let asking = tokio::spawn(async move { client.send(request).await.unwrap() });
        eventually("the issuer is asked", async || server.asked() > before).await;
        lab.policies.replace(later.clone());
        drop(held);
        let reply = in_time("an answer", asking).await.unwrap();
        assert_eq!(reply.status, status, "{reply:?}");
    }
    assert_eq!(origin.requests(), 1);
}
