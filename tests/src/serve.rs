//! Serving HTTP from the lab's namespaces, with or without TLS.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result};
use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::{pki::Identity, resident::Resident};

/// TLS for a lab service, without client certificates.
///
/// # Errors
/// If the certificate and the key do not belong together.
pub fn tls(identity: &Identity) -> Result<Arc<ServerConfig>> {
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(identity.chain(), identity.key())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Serves `router` on `resident` until that is dropped. Gives the address, with the port that a port 0
/// became.
///
/// # Errors
/// If the address cannot be bound.
pub fn start(
    resident: &Resident,
    address: SocketAddr,
    router: Router,
    tls: Option<Arc<ServerConfig>>,
) -> Result<SocketAddr> {
    resident.wait(async move {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}"))?;
        let bound = listener.local_addr()?;
        drop(tokio::spawn(accept(listener, router, tls.map(TlsAcceptor::from))));
        Ok(bound)
    })?
}

async fn accept(listener: TcpListener, router: Router, tls: Option<TlsAcceptor>) {
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => drop(tokio::spawn(serve(stream, router.clone(), tls.clone()))),
            // Out of descriptors: others may close theirs.
            Err(_error) => tokio::task::yield_now().await,
        }
    }
}

/// Serves one connection. What breaks it is the client's to report.
async fn serve(stream: TcpStream, router: Router, tls: Option<TlsAcceptor>) {
    // Answers are small and should not wait for more.
    let _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(router);
    let server = auto::Builder::new(TokioExecutor::new());
    match tls {
        None => drop(
            server
                .serve_connection_with_upgrades(TokioIo::new(stream), service)
                .await,
        ),
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                drop(
                    server
                        .serve_connection_with_upgrades(TokioIo::new(stream), service)
                        .await,
                );
            }
        }
    }
}
