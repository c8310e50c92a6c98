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
    let unkept = shared.kept.troubles().into_iter();
    let unread = shared.parts.unread().into_iter().map(|what| {
        let why = "the disk does not answer: changes are not seen";
        (what, why.to_owned())
    });
    let lines: String = unkept
        .chain(unread)
        .map(|(of, why)| format!("{of}: {why}\n"))
        .collect();
    (StatusCode::OK, format!("ok\n{lines}"))
}

/// Ready: policies are in force, connections are accepted and all parts make progress; not while it drains. Names the
/// interfaces that policies name and that are not filtered: one of many that is gone is no reason to take a node out.
pub async fn readyz(State(shared): State<Arc<Shared>>) -> (StatusCode, String) {
    let troubles = shared.parts.troubles();
    match shared.is_ready() && troubles.is_empty() {
        true => {
            let standing = shared.standing();
            let failures = standing.kernel.failures.iter();
            let mut lines: String = failures
                .map(|(name, why)| format!("not filtered: {name}: {why}\n"))
                .collect();
            if shared.kernel.is_some()
                && !standing.set.packet_policies.is_empty()
                && standing.kernel.attached.is_empty()
            {
                lines += "no interface is filtered: packet policies name none that is there\n";
            }
            (StatusCode::OK, format!("ready\n{lines}"))
        }
        false => {
            let lines: String = troubles.iter().map(|line| format!("{line}\n")).collect();
            (StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{lines}"))
        }
    }
}
