//! A bare forwarder on the gateway's own stack (hyper, tokio, rustls): mutual TLS and nothing else. What is left of a
//! gateway when all that it decides is taken away; the floor that ours is compared with.

use std::{
    cell::RefCell,
    net::SocketAddr,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use http::{Request, Response, Uri, header};
use hyper::{body::Incoming, client::conn::http1::SendRequest, server::conn, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    task::{LocalSet, spawn_local},
};
use tokio_rustls::TlsAcceptor;

/// Upstream connections, some of which still receive a response.
type Pool = Rc<RefCell<Vec<SendRequest<Incoming>>>>;

/// Where it listens, where it sends, and what it shows: `server.pem`, `server-key.pem` and `ca.pem` in a folder.
#[derive(Clone, Debug)]
pub struct Settings {
    pub listen: SocketAddr,
    pub origin: SocketAddr,
    pub folder: PathBuf,
}

/// Forwards until it is told to end (SIGTERM).
///
/// # Errors
/// The certificates are unusable, or the address is taken.
pub fn run(settings: &Settings) -> Result<()> {
    let tls = TlsAcceptor::from(Arc::new(tls(&settings.folder)?));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind(settings.listen)
            .await
            .with_context(|| format!("cannot listen on {}", settings.listen))?;
        let pool = Pool::default();
        let mut told = signal(SignalKind::terminate())?;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = told.recv() => return Ok(()),
            };
            let (stream, _peer) = accepted?;
            drop(spawn_local(serve(
                stream,
                tls.clone(),
                Rc::clone(&pool),
                settings.origin,
            )));
        }
    })
}

fn tls(folder: &Path) -> Result<ServerConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("ca.pem"))?)?;
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build()?;
    let certificate = CertificateDer::from_pem_file(folder.join("server.pem"))?;
    let key = PrivateKeyDer::from_pem_file(folder.join("server-key.pem"))?;
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// One connection; what breaks it is the client's to report.
async fn serve(stream: TcpStream, tls: TlsAcceptor, pool: Pool, origin: SocketAddr) {
    let _ = stream.set_nodelay(true);
    let Ok(stream) = tls.accept(stream).await else {
        return;
    };
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request| forward(Rc::clone(&pool), origin, request));
    let stream = TokioIo::new(stream);
    if http2 {
        drop(
            conn::http2::Builder::new(Local)
                .serve_connection(stream, service)
                .await,
        );
    } else {
        drop(
            conn::http1::Builder::new()
                .serve_connection(stream, service)
                .await,
        );
    }
}

async fn forward(
    pool: Pool,
    origin: SocketAddr,
    mut request: Request<Incoming>,
) -> Result<Response<Incoming>, Box<dyn std::error::Error + Send + Sync>> {
    if let Some(authority) = request.uri().authority() {
        let host = http::HeaderValue::from_str(authority.as_str())?;
        request.headers_mut().insert(header::HOST, host);
    }
    *request.uri_mut() = request
        .uri()
        .path_and_query()
        .cloned()
        .map_or_else(Uri::default, Uri::from);
    *request.version_mut() = http::Version::HTTP_11;
    let mut sender = match ready(&pool) {
        Some(kept) => kept,
        None => {
            let stream = TcpStream::connect(origin).await?;
            stream.set_nodelay(true)?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            drop(spawn_local(connection));
            sender.ready().await?;
            sender
        }
    };
    let response = sender.send_request(request).await?;
    pool.borrow_mut().push(sender);
    Ok(response)
}

/// A connection whose last response has gone through. Those that have ended go.
fn ready(pool: &Pool) -> Option<SendRequest<Incoming>> {
    let mut pool = pool.borrow_mut();
    pool.retain(|sender| !sender.is_closed());
    let at = pool.iter().rposition(SendRequest::is_ready)?;
    Some(pool.swap_remove(at))
}

/// Runs HTTP/2's tasks on this thread.
#[derive(Clone, Copy, Debug)]
struct Local;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, task: F) {
        drop(spawn_local(task));
    }
}
