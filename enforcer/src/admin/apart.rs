//! Requests that may wait for system calls or locks are answered on threads of their own, so that the runtime's few are
//! free for probes.

use axum::{
    extract::Request,
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use tokio::{runtime::Handle, task::spawn_blocking};

/// Answers a request on a thread that may block. How many there are at once is the runtime's bound.
pub(super) async fn apart(request: Request, next: Next) -> Response {
    let runtime = Handle::current();
    let answer = spawn_blocking(move || runtime.block_on(next.run(request)));
    answer.await.unwrap_or_else(|error| {
        let text = format!("the answer failed: {error}\n");
        (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
    })
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, mpsc::sync_channel},
        time::Duration,
    };

    use axum::{Router, middleware, routing::get};
    use hyper_util::client::legacy::{Client, connect::HttpConnector};

    use super::*;

    /// As many handlers hang as the runtime has threads, and more.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn d1_handlers_that_hang_keep_no_probe_waiting() {
        let (release, hung) = sync_channel::<()>(0);
        let hung = Arc::new(std::sync::Mutex::new(hung));
        let (begun, mut begins) = tokio::sync::mpsc::channel(8);
        let hang = move || {
            let (hung, begun) = (Arc::clone(&hung), begun.clone());
            async move {
                begun.try_send(()).unwrap();
                let _ = hung.lock().map(|hung| hung.recv());
                "late"
            }
        };
        let router = Router::new()
            .route("/hang", get(hang))
            .layer(middleware::from_fn(apart))
            .route("/healthz", get(|| async { "ok" }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let client: Client<HttpConnector, axum::body::Body> =
            Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
        let ask = |path: &str| client.get(format!("http://{address}{path}").parse().unwrap());
        for _ in 0..4 {
            tokio::spawn(ask("/hang"));
        }
        for _ in 0..4 {
            begins.recv().await.unwrap();
        }
        let probe = tokio::time::timeout(Duration::from_secs(60), ask("/healthz"));
        assert_eq!(probe.await.unwrap().unwrap().status(), StatusCode::OK);
        drop(release);
    }
}
