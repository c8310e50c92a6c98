//! The admin address, the socket that the commands use, and the address of metrics.
//!
//! Reading is free to whoever reaches the admin address on loopback; beyond it, all but health and metrics takes
//! the token. Changing anything takes the token in the runtime directory, which the agent's own user alone can
//! read, so that no other process on the node and no page in a browser can deny anybody. Over the socket the
//! kernel says who asks: root and the agent's user need no token.

mod api;
mod connections;
mod events;
mod files;
mod guard;
mod health;
mod places;
mod readers;
pub mod revocations;
mod socket;
pub mod wire;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{Extension, Router, middleware, routing::get};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    agent::state::Shared,
    agent_lock::{AgentLock, AgentLockError},
};
use connections::Listener;
use enforcer_gateway::port_taken;
use enforcer_supervision::sync;
use files::Files;
use guard::{Guard, Surface};
use places::{Bounds, Places};
use readers::Readers;

pub use api::OPERATOR_HEADER;
pub use guard::{TOKEN_FILE, TOKEN_HEADER};
pub use socket::SOCKET_FILE;

/// Connections to the admin address.
const ADMIN_PLACES: Bounds = Bounds {
    connections: 96,
    requests: 48,
};
/// Connections to the socket.
const SOCKET_PLACES: Bounds = Bounds {
    connections: 48,
    requests: 16,
};
/// Connections to the address of metrics.
const METRICS_PLACES: Bounds = Bounds {
    connections: 32,
    requests: 8,
};

/// Why the admin address is not served.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error(
        "cannot listen on the {what} address {address}: {source}{}",
        port_taken(source)
    )]
    Listen {
        what: &'static str,
        address: SocketAddr,
        source: io::Error,
    },
    #[error(transparent)]
    RuntimeDir(#[from] AgentLockError),
    #[error("cannot write into {folder}: {source}; set `runtimeDir` to a folder that the agent may write")]
    Sign { folder: PathBuf, source: io::Error },
    #[error(
        "cannot write the admin token into {path}: {source}; set `runtimeDir` to a folder that the agent may write"
    )]
    Token { path: String, source: io::Error },
    #[error(
        "cannot listen on the admin socket {path}: {source}; remove what is there, or set `runtimeDir` to another folder"
    )]
    Socket { path: String, source: io::Error },
    #[error("the admin address cannot be watched: {0}")]
    Watch(#[source] io::Error),
    #[error("the system gives no randomness for the admin token")]
    Randomness,
}

/// Where the agent is asked.
#[derive(Clone, Copy, Debug)]
pub struct Addresses<'a> {
    pub admin: SocketAddr,
    /// For metrics alone. `None`: they are on the admin address only.
    pub metrics: Option<SocketAddr>,
    pub runtime_dir: &'a Path,
}

/// The runtime directory and the addresses, taken and not yet served. Who connects waits.
#[derive(Debug)]
pub struct Bound {
    admin: std::net::TcpListener,
    surface: Surface,
    metrics: Option<std::net::TcpListener>,
    socket: Option<(std::os::unix::net::UnixListener, socket::Bound)>,
    guard: Guard,
    lock: AgentLock,
    runtime_dir: PathBuf,
}

/// Takes the runtime directory and the addresses. A second agent on a node fails here, so this comes before
/// anything that it would take from the first: the token's file, and a share of the gateway's connections.
///
/// # Errors
/// One of them is taken, or not this machine's, or the directory cannot be written.
pub fn bind(addresses: Addresses<'_>) -> Result<Bound, AdminError> {
    let admin = listen("admin", addresses.admin)?;
    let mut lock = AgentLock::take(addresses.runtime_dir, "runtimeDir")?;
    lock.sign().map_err(|source| AdminError::Sign {
        folder: addresses.runtime_dir.to_owned(),
        source,
    })?;
    let socket = match socket::listen(addresses.runtime_dir, &lock) {
        Ok(socket) => Some(socket),
        // What the system says of a path that is too long. The agent served without a socket before there was one.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            tracing::warn!(
                %error,
                folder = %addresses.runtime_dir.display(),
                "no admin socket: the commands need `--admin`; a shorter `runtimeDir` gives them one"
            );
            None
        }
        Err(source) => {
            return Err(AdminError::Socket {
                path: addresses.runtime_dir.join(SOCKET_FILE).display().to_string(),
                source,
            });
        }
    };
    let metrics = addresses
        .metrics
        .map(|address| listen("metrics", address))
        .transpose()?;
    let owner = socket.as_ref().map(|(_, bound)| bound.owner);
    Ok(Bound {
        admin,
        surface: match addresses.admin.ip().to_canonical().is_loopback() {
            true => Surface::Loopback,
            false => Surface::Open,
        },
        metrics,
        socket,
        guard: Guard::new(addresses.runtime_dir, owner)?,
        lock,
        runtime_dir: addresses.runtime_dir.to_owned(),
    })
}

fn listen(what: &'static str, address: SocketAddr) -> Result<std::net::TcpListener, AdminError> {
    let listen = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    listen().map_err(|source| AdminError::Listen {
        what,
        address,
        source,
    })
}

/// The running servers.
#[derive(Debug)]
pub struct Admin {
    servers: Vec<JoinHandle<()>>,
    lock: Arc<AgentLock>,
}

impl Admin {
    /// Ends them. The runtime directory stays this agent's until its process has ended.
    pub fn stop(self) {
        for server in self.servers {
            server.abort();
        }
        std::mem::forget(self.lock);
    }
}

/// Serves the addresses, on the runtime that this is called in.
///
/// # Errors
/// The runtime cannot watch a socket.
pub fn start(bound: Bound, shared: Arc<Shared>) -> Result<Admin, AdminError> {
    let guard = Arc::new(bound.guard);
    let lock = Arc::new(bound.lock);
    let readers = Readers::new();
    let router = |surface| {
        api(Arc::clone(&shared))
            .layer(Extension(Arc::clone(&readers)))
            .layer(middleware::from_fn_with_state(
                (Arc::clone(&guard), surface),
                guard::check,
            ))
    };
    let tcp = |listener| {
        TcpListener::from_std(listener)
            .map(Listener::Tcp)
            .map_err(AdminError::Watch)
    };
    let admin = tcp(bound.admin)?;
    let served = connections::serve(admin, Places::new(ADMIN_PLACES), router(bound.surface));
    let mut servers = vec![tokio::spawn(served)];
    let files = Files {
        guard: Arc::clone(&guard),
        lock: Arc::clone(&lock),
        folder: bound.runtime_dir,
        socket: bound.socket,
    };
    let kept = files::keep(files, Places::new(SOCKET_PLACES), router(Surface::Socket));
    servers.push(tokio::spawn(kept));
    if let Some(listener) = bound.metrics {
        let router = Router::new()
            .route("/metrics", get(health::metrics))
            .with_state(shared);
        let served = connections::serve(tcp(listener)?, Places::new(METRICS_PLACES), router);
        servers.push(tokio::spawn(served));
    }
    Ok(Admin { servers, lock })
}

fn api(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/metrics", get(health::metrics))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
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
        .layer(middleware::from_fn(|request, next: middleware::Next| {
            sync::request(next.run(request))
        }))
        .with_state(shared)
}
