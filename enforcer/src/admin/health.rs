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

/// Alive: all parts make progress. Says what the operator must know. Waits for nothing.
pub async fn healthz(State(shared): State<Arc<Shared>>) -> (StatusCode, String) {
    let troubles = shared.parts.troubles();
    if !troubles.is_empty() {
        let lines: String = troubles.iter().map(|line| format!("{line}\n")).collect();
        return (StatusCode::SERVICE_UNAVAILABLE, format!("not healthy\n{lines}"));
    }
    let text = match shared.kept.trouble() {
        None => "ok\n".to_owned(),
        Some(why) => format!("ok\nrevocations: {why}\n"),
    };
    (StatusCode::OK, text)
}

/// Ready: policies are in force, connections are accepted and all parts make progress; not while it drains.
pub async fn readyz(State(shared): State<Arc<Shared>>) -> (StatusCode, String) {
    let troubles = shared.parts.troubles();
    match shared.is_ready() && troubles.is_empty() {
        true => (StatusCode::OK, "ready\n".to_owned()),
        false => {
            let lines: String = troubles.iter().map(|line| format!("{line}\n")).collect();
            (StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{lines}"))
        }
    }
}
