//! An upstream that says who it is and what it was asked.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use axum::{
    Json, Router,
    extract::{Request, State},
    response::{IntoResponse as _, Response},
    routing::get,
};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::{resident::Resident, serve};

/// What it answers.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Echo {
    /// The upstream's name.
    pub upstream: String,
    pub method: String,
    /// With the query.
    pub path: String,
    /// By lower-case name; the last one of several.
    pub headers: BTreeMap<String, String>,
}

/// A running upstream. It runs as long as its thread.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    behaviour: Arc<Behaviour>,
    _thread: Resident,
}

#[derive(Debug)]
struct Behaviour {
    name: String,
    delay_ms: AtomicU64,
    failing: AtomicBool,
    begun: AtomicU64,
    served: AtomicU64,
}

impl Upstream {
    /// Serves on a thread, whose namespace is where it listens.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub fn start(thread: Resident, address: SocketAddr, name: &str) -> Result<Self> {
        let behaviour = Arc::new(Behaviour {
            name: name.to_owned(),
            delay_ms: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            served: AtomicU64::new(0),
        });
        let router = Router::new()
            .route("/healthz", get(health))
            .fallback(echo)
            .with_state(Arc::clone(&behaviour));
        let address = serve::start(&thread, address, router, None)?;
        Ok(Self {
            address,
            behaviour,
            _thread: thread,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests have reached it, health checks aside.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.behaviour.begun.load(Ordering::Relaxed)
    }

    /// How many requests it has answered, health checks aside.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.behaviour.served.load(Ordering::Relaxed)
    }

    /// Makes every answer wait.
    pub fn set_delay(&self, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.behaviour.delay_ms.store(millis, Ordering::Relaxed);
    }

    /// Makes every answer, health checks too, a 503, or lets them be good again.
    pub fn set_failing(&self, failing: bool) {
        self.behaviour.failing.store(failing, Ordering::Relaxed);
    }
}

async fn health(State(behaviour): State<Arc<Behaviour>>) -> StatusCode {
    if behaviour.failing.load(Ordering::Relaxed) {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    }
}

async fn echo(State(behaviour): State<Arc<Behaviour>>, request: Request) -> Response {
    behaviour.begun.fetch_add(1, Ordering::Relaxed);
    let delay = Duration::from_millis(behaviour.delay_ms.load(Ordering::Relaxed));
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    behaviour.served.fetch_add(1, Ordering::Relaxed);
    if behaviour.failing.load(Ordering::Relaxed) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let headers = request
        .headers()
        .iter()
        .map(|(name, value)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect();
    Json(Echo {
        upstream: behaviour.name.clone(),
        method: request.method().to_string(),
        path: request.uri().to_string(),
        headers,
    })
    .into_response()
}
