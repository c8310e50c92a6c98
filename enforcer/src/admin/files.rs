//! Looks after what is in the runtime directory: a token or a socket that somebody has deleted comes back.

use std::{io, os::unix::net::UnixListener, path::PathBuf, sync::Arc, time::Duration};

use axum::Router;
use tokio::task::JoinHandle;

use super::{
    connections::{self, Listener},
    guard::Guard,
    places::Places,
    socket::{self, Bound},
};
use crate::agent_lock::AgentLock;

/// How often it is looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// What is looked after.
pub(super) struct Files {
    pub(super) guard: Arc<Guard>,
    pub(super) lock: Arc<AgentLock>,
    pub(super) folder: PathBuf,
    /// `None`: the agent has no socket.
    pub(super) socket: Option<(UnixListener, Bound)>,
}

/// A task that ends when this is dropped.
struct Server(JoinHandle<()>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Serves the socket, and keeps it and the token where they are looked for, without an end.
pub(super) async fn keep(files: Files, places: Arc<Places>, router: Router) {
    let serve = |listener| {
        let listener = tokio::net::UnixListener::from_std(listener).map(Listener::Unix)?;
        let served = connections::serve(listener, Arc::clone(&places), router.clone());
        io::Result::Ok(Server(tokio::spawn(served)))
    };
    let (listener, mut bound) = files.socket.unzip();
    let mut server = listener.map(&serve);
    loop {
        if let Some(Err(error)) = &server {
            tracing::error!(%error, "the admin socket is not served");
        }
        tokio::time::sleep(PERIOD).await;
        let (guard, lock, folder) = (
            Arc::clone(&files.guard),
            Arc::clone(&files.lock),
            files.folder.clone(),
        );
        // The directory may be on a disk that does not answer.
        let looking = tokio::task::spawn_blocking(move || look(&guard, &lock, &folder, bound));
        let Ok((left, listener)) = looking.await else {
            return;
        };
        bound = left;
        if let Some(listener) = listener {
            server = Some(serve(listener));
        }
    }
}

fn look(
    guard: &Guard,
    lock: &AgentLock,
    folder: &std::path::Path,
    bound: Option<Bound>,
) -> (Option<Bound>, Option<UnixListener>) {
    match guard.keep() {
        Ok(false) => {}
        Ok(true) => tracing::warn!("the admin token's file had gone or changed; it is written again"),
        Err(error) => tracing::debug!(%error, "the admin token's file has gone"),
    }
    if bound.as_ref().is_none_or(Bound::is_there) {
        return (bound, None);
    }
    match socket::listen(folder, lock) {
        Ok((listener, made)) => {
            tracing::warn!("the admin socket had gone; it is made again");
            (Some(made), Some(listener))
        }
        Err(error) => {
            tracing::debug!(%error, "the admin socket has gone");
            (bound, None)
        }
    }
}
