//! An issuer whose keys change, and that goes away.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::StatusCode;
use serde_json::json;
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};

use super::ground::Ground;
use crate::data_path::support::{
    corp::{self, SigningKey},
    eventually,
};

/// An issuer that publishes its keys over HTTP.
pub(super) struct Idp {
    pub(super) address: SocketAddr,
    pub(super) directory: TempDir,
    pub(super) first: Key,
    second: Key,
    third: Key,
    published: Arc<Published>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Published {
    document: Mutex<String>,
    /// Answers no question.
    fails: AtomicBool,
    readings: AtomicUsize,
}

pub(super) struct Key(SigningKey);

impl Key {
    pub(super) fn token(&self) -> String {
        self.0.token_with(&json!({"scope": "orders:read"}))
    }
}

impl Idp {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let published = Arc::default();
        let idp = Self {
            address,
            directory: TempDir::new().unwrap(),
            first: Key(SigningKey::new("first")),
            second: Key(SigningKey::new("second")),
            third: Key(SigningKey::new("third")),
            task: serve(listener, &published),
            published,
        };
        idp.publish(&[&idp.first]);
        idp
    }

    fn publish(&self, keys: &[&Key]) {
        let keys: Vec<_> = keys.iter().map(|key| &key.0).collect();
        *self.published.document.lock().unwrap() = corp::key_set(&keys).to_string();
    }

    fn readings(&self) -> usize {
        self.published.readings.load(Ordering::SeqCst)
    }

    /// Nobody listens any more.
    pub(super) async fn stop(&mut self) {
        self.task.abort();
        // It says that it was aborted.
        drop((&mut self.task).await);
    }

    pub(super) async fn start_again(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.published.fails.store(false, Ordering::SeqCst);
        self.task = serve(listener, &self.published);
    }
}

impl Drop for Idp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn serve(listener: TcpListener, published: &Arc<Published>) -> JoinHandle<()> {
    async fn document(State(published): State<Arc<Published>>) -> Response {
        published.readings.fetch_add(1, Ordering::SeqCst);
        // One connection each, so that none outlives the issuer.
        let close = [("connection", "close")];
        if published.fails.load(Ordering::SeqCst) {
            return (StatusCode::SERVICE_UNAVAILABLE, close).into_response();
        }
        (close, published.document.lock().unwrap().clone()).into_response()
    }
    let router = Router::new()
        .route("/jwks", get(document))
        .with_state(Arc::clone(published));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() })
}

fn change_over(ground: &Ground, key: &Key) {
    *ground.shared.token.lock().unwrap() = key.token();
}

/// The document gets a second key, and at once all tokens are signed by it.
pub(super) async fn add(ground: &Ground) {
    let idp = &ground.idp;
    idp.publish(&[&idp.first, &idp.second]);
    change_over(ground, &idp.second);
    assert_eq!(ground.status("/orders/2", &idp.second.token()).await, 200);
    assert_eq!(
        ground.status("/orders/2", &idp.first.token()).await,
        200,
        "the old key still counts"
    );
}

/// The first key is withdrawn: only its tokens are refused, those that were verified before too.
pub(super) async fn withdraw(ground: &Ground) {
    let idp = &ground.idp;
    let old = idp.first.token();
    assert_eq!(ground.status("/orders/2", &old).await, 200);
    idp.publish(&[&idp.second]);
    eventually("it is refused", async || {
        ground.status("/orders/2", &old).await == 401
    })
    .await;
}

/// The issuer fails twice, and the last keys stay.
pub(super) async fn fail(ground: &Ground) {
    let readings = ground.idp.readings();
    ground.idp.published.fails.store(true, Ordering::SeqCst);
    eventually("it is asked twice", async || {
        ground.idp.readings() >= readings + 2
    })
    .await;
    let unknown = ground.status("/orders/2", &ground.idp.third.token()).await;
    assert_eq!(unknown, 503, "the key may be in what cannot be read");
}

/// The issuer is there again, with a key more, by which all tokens are signed once the gateway knows it.
pub(super) async fn come_back(ground: &Ground) {
    let idp = &ground.idp;
    idp.publish(&[&idp.second, &idp.third]);
    let new = idp.third.token();
    eventually("it is read", async || {
        ground.status("/orders/2", &new).await == 200
    })
    .await;
    change_over(ground, &idp.third);
}
