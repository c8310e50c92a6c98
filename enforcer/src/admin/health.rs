//! Metrics and probes.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use prometheus::{Encoder as _, TextEncoder};

use super::api::no_answer;
use crate::agent::state::Shared;

/// Prometheus text format.
pub async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let asked = Arc::clone(&shared);
    let read = shared.rooms.read(move || asked.metrics.gather(&asked)).await;
    let families = match read {
        Ok(Ok(families)) => families,
        Err(error) => return no_answer(&error),
        Ok(Err(error)) => {
            tracing::error!(%error, "kernel counters cannot be read");
            return (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response();
        }
    };
    let encoder = TextEncoder::new();
    let mut body = Vec::new();
    match encoder.encode(&families, &mut body) {
        Ok(()) => ([(CONTENT_TYPE, encoder.format_type().to_owned())], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Alive: it answers, and says what the operator must know.
pub async fn healthz(State(shared): State<Arc<Shared>>) -> String {
    match shared.kept.trouble() {
        None => "ok\n".to_owned(),
        Some(why) => format!("ok\nrevocations: {why}\n"),
    }
}

/// Ready: policies are in force and connections are accepted; not while it drains.
pub async fn readyz(State(shared): State<Arc<Shared>>) -> (StatusCode, &'static str) {
    match shared.is_ready() {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
    }
}
