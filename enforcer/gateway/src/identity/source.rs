//! Reading an issuer's key document from a file or an address, with every dimension bounded.
//!
//! The address comes from the policy alone: what a token says about keys (`jku`, `x5u`, `jwk`) is
//! never looked at, and redirects are not followed.

use std::{
    error::Error as _,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header, uri::Scheme};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use thiserror::Error;
use tokio::{io::AsyncReadExt, time::timeout};

use enforcer_model::JwksSource;

/// The largest key document, in bytes.
pub const MAX_DOCUMENT: usize = 256 * 1024;
/// For the whole of one reading.
pub const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// How the agent calls itself.
pub(super) const USER_AGENT: &str = concat!("enforcer/", env!("CARGO_PKG_VERSION"));

/// Why a key document could not be read.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The file is not there, not a file, or not readable.
    #[error("cannot read {}: {error}", .path.display())]
    File { path: PathBuf, error: io::Error },
    /// The file of trusted authorities has none, or is not readable.
    #[error("cannot use the authorities of {}: {reason}; write certificates in PEM there", .path.display())]
    Authorities { path: PathBuf, reason: String },
    /// The system trusts nobody, as far as can be seen.
    #[error("the system has no trusted authorities: install its CA certificates, or name a file in `ca`")]
    NoSystemAuthorities,
    /// The TLS stack refused its configuration.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// No connection, a certificate that does not hold, or a broken exchange.
    #[error("{uri} does not answer: {reason}")]
    Request { uri: Uri, reason: String },
    /// Anything but 200, also a redirect.
    #[error("{uri} answers {status}: it must answer 200 itself, redirects are not followed")]
    Status { uri: Uri, status: StatusCode },
    /// More than [`MAX_DOCUMENT`].
    #[error("the document is larger than {MAX_DOCUMENT} bytes, or broke off")]
    Body,
    /// Longer than [`READ_TIMEOUT`].
    #[error("reading took longer than {} s", READ_TIMEOUT.as_secs())]
    Timeout,
}

/// Reads the document once.
///
/// # Errors
/// If it cannot be had whole, in time and in size.
pub async fn read(source: &JwksSource) -> Result<Vec<u8>, SourceError> {
    let reading = async {
        match source {
            JwksSource::File(path) => read_file(path).await.map_err(|error| SourceError::File {
                path: path.clone(),
                error,
            }),
            JwksSource::Url { url, ca } => read_address(url, ca.as_deref()).await,
        }
    };
    timeout(READ_TIMEOUT, reading)
        .await
        .unwrap_or(Err(SourceError::Timeout))
}

pub(super) async fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a pipe would wait for its writer, in a thread that no timeout ends.
    if !tokio::fs::metadata(path).await?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let most = MAX_DOCUMENT as u64 + 1;
    let mut document = Vec::new();
    tokio::fs::File::open(path)
        .await?
        .take(most)
        .read_to_end(&mut document)
        .await?;
    if document.len() > MAX_DOCUMENT {
        return Err(io::Error::other(format!(
            "it is larger than {MAX_DOCUMENT} bytes"
        )));
    }
    Ok(document)
}

async fn read_address(uri: &Uri, ca: Option<&Path>) -> Result<Vec<u8>, SourceError> {
    let request = Request::get(uri.clone())
        .header(header::ACCEPT, "application/jwk-set+json, application/json")
        .header(header::USER_AGENT, USER_AGENT)
        .body(Empty::<Bytes>::new())
        .map_err(|error| refused(uri, error.to_string()))?;
    let connector = connector(uri, ca).await?;
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(0)
        .build(connector);
    let response = client
        .request(request)
        .await
        .map_err(|error| refused(uri, chain(&error)))?;
    if response.status() != StatusCode::OK {
        return Err(SourceError::Status {
            uri: uri.clone(),
            status: response.status(),
        });
    }
    let body = Limited::new(response.into_body(), MAX_DOCUMENT)
        .collect()
        .await
        .map_err(|_| SourceError::Body)?;
    Ok(body.to_bytes().into())
}

/// For keys made anew for each reading: readings are rare, and so renewed authorities count at once.
pub(super) async fn connector(
    uri: &Uri,
    ca: Option<&Path>,
) -> Result<HttpsConnector<HttpConnector>, SourceError> {
    let plain = uri.scheme() == Some(&Scheme::HTTP);
    let roots = match ca {
        _ if plain => RootCertStore::empty(),
        Some(path) => authorities_of(path).await?,
        None => system_authorities().await?,
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let builder = HttpsConnectorBuilder::new().with_tls_config(config);
    Ok(if plain {
        builder.https_or_http().enable_http1().build()
    } else {
        builder.https_only().enable_all_versions().build()
    })
}

async fn authorities_of(path: &Path) -> Result<RootCertStore, SourceError> {
    let wrong = |reason: String| SourceError::Authorities {
        path: path.to_owned(),
        reason,
    };
    let pem = read_file(path).await.map_err(|error| wrong(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("it holds no certificate".to_owned()));
    }
    Ok(roots)
}

async fn system_authorities() -> Result<RootCertStore, SourceError> {
    let loaded = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs)
        .await
        .map_err(|_| SourceError::NoSystemAuthorities)?;
    let mut roots = RootCertStore::empty();
    // Systems carry certificates that the TLS stack does not take; the others do.
    roots.add_parsable_certificates(loaded.certs);
    if roots.is_empty() {
        return Err(SourceError::NoSystemAuthorities);
    }
    Ok(roots)
}

pub(super) fn refused(uri: &Uri, reason: String) -> SourceError {
    SourceError::Request {
        uri: uri.clone(),
        reason,
    }
}

/// The client's own message names only the phase; the cause is below it.
pub(super) fn chain(error: &legacy::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
