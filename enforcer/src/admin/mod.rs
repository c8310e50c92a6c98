//! The admin address: metrics, health, and what the command line uses.
//!
//! Reading is free to whoever reaches the address (loopback unless configured). Changing anything takes
//! the token in the runtime directory, which the agent's own user alone can read, so that no other
//! process on the node and no page in a browser can deny anybody.

mod apart;
mod api;
mod connections;
mod events;
mod guard;
mod health;
pub mod revocations;
pub mod wire;

use std::{io, net::SocketAddr, path::Path, sync::Arc};

use axum::{Router, middleware, routing::get};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{agent::state::Shared, gateway::port_taken};

pub use guard::{TOKEN_FILE, TOKEN_HEADER};

/// Why the admin address is not served.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error(
        "cannot listen on the admin address {address}: {source}{}",
        port_taken(source)
    )]
    Listen { address: SocketAddr, source: io::Error },
    #[error(
        "cannot write the admin token into {path}: {source}; set `runtimeDir` to a folder that the agent may write"
    )]
    Token { path: String, source: io::Error },
    #[error("the admin address cannot be watched: {0}")]
    Watch(#[source] io::Error),
    #[error("the system gives no randomness for the admin token")]
    Randomness,
}

/// The admin address, taken and not yet served. Who connects waits.
#[derive(Debug)]
pub struct Bound(std::net::TcpListener);

/// Takes the admin address. A second agent on a node fails here, so this comes before anything that it
/// would take from the first: the token's file, and a share of the gateway's connections.
///
/// # Errors
/// It is taken, or not this machine's.
pub fn bind(address: SocketAddr) -> Result<Bound, AdminError> {
    let listen = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Bound(listener))
    };
    listen().map_err(|source| AdminError::Listen { address, source })
}

/// The running server.
#[derive(Debug)]
pub struct Admin(JoinHandle<()>);

impl Admin {
    /// Ends it.
    pub fn stop(self) {
        self.0.abort();
    }
}

/// Serves the admin address, on the runtime that this is called in.
///
/// # Errors
/// The token cannot be written, or the runtime cannot watch the socket.
pub fn start(Bound(listener): Bound, runtime_dir: &Path, shared: Arc<Shared>) -> Result<Admin, AdminError> {
    let guard = Arc::new(guard::Guard::new(runtime_dir)?);
    let listener = TcpListener::from_std(listener).map_err(AdminError::Watch)?;
    let router = Router::new()
        .route("/metrics", get(health::metrics))
        .route("/v1/status", get(api::status))
        .route("/v1/explain", get(api::explain))
        .route("/v1/events", get(events::events))
        .route(
            "/v1/revocations",
            get(revocations::revocations)
                .post(api::revoke)
                .delete(revocations::restore),
        )
        .route(
            "/v1/denials",
            get(api::denials).post(api::deny).delete(api::allow),
        )
        // All of these may wait for the kernel; probes wait for nothing.
        .layer(middleware::from_fn(apart::apart))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .layer(middleware::from_fn_with_state(guard, guard::check))
        .with_state(shared);
    let server = tokio::spawn(async move {
        if let Err(error) = axum::serve(connections::Connections::new(listener), router).await {
            tracing::error!(%error, "the admin server has ended");
        }
    });
    Ok(Admin(server))
}
