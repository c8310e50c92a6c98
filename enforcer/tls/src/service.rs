//! TLS to a service's endpoints: its own trust, whom it takes the endpoint for, and who we are.
//!
//! Files are looked at now and then and compared by content. What does not fit leaves the old in use;
//! while nothing has ever fitted, no connection comes about. New files count for new connections; those
//! that are kept end after the request that they serve.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, aws_lc_rs},
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{Dated, certificate::ClientCertificate};
use enforcer_model::{Name, Protocol, SpiffePattern, UpstreamTls};

/// A file is read up to this many bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;
/// What HTTP/2 is called in TLS (RFC 9113 section 3.1).
const ALPN_HTTP2: &[u8] = b"h2";

/// A service's TLS, which changes with its files.
#[derive(Debug)]
pub struct ServiceTls {
    service: Name,
    law: UpstreamTls,
    protocol: Protocol,
    current: ArcSwapOption<ClientConfig>,
    /// Counts what has been in use.
    version: AtomicU64,
    seen: Mutex<Seen>,
}

/// What came of the last look at the files.
#[derive(Debug, Default)]
struct Seen {
    files: Option<Files>,
    /// Of what is in use.
    dated: Vec<Dated>,
    failure: Option<String>,
}

/// The contents of a service's files.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Files {
    ca: Option<Vec<u8>>,
    /// Certificate and key.
    own: Option<(Vec<u8>, Vec<u8>)>,
}

impl ServiceTls {
    /// Reads the files.
    #[must_use]
    pub fn new(service: &Name, law: &UpstreamTls, protocol: Protocol) -> Arc<Self> {
        let tls = Self {
            service: service.clone(),
            law: law.clone(),
            protocol,
            current: ArcSwapOption::empty(),
            version: AtomicU64::new(0),
            seen: Mutex::default(),
        };
        tls.reload();
        Arc::new(tls)
    }

    /// Whether `law` is what this keeps to, and `protocol` what it asks for.
    #[must_use]
    pub fn keeps(&self, law: &UpstreamTls, protocol: Protocol) -> bool {
        self.law == *law && self.protocol == protocol
    }

    /// Takes the files over if they have changed. Reads them, so not for a worker's thread. False if what
    /// is wrong with them is news, which is logged.
    pub fn reload(&self) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = Files::read(&self.law).and_then(|files| {
            if seen.files.as_ref() == Some(&files) {
                return Ok(None);
            }
            let config = config(&self.law, &files, self.protocol)?;
            Ok(Some((config, dated(&self.law, &files)?, files)))
        });
        let service = &self.service;
        match taken {
            Ok(None) => seen.failure = None,
            Ok(Some((config, dated, files))) => {
                self.current.store(Some(Arc::new(config)));
                // After the configuration: who sees the number gets what it stands for, or newer.
                let version = self.version.fetch_add(1, Ordering::Release);
                *seen = Seen {
                    files: Some(files),
                    dated,
                    failure: None,
                };
                if version > 0 {
                    tracing::info!(%service, "new certificate files are used towards endpoints");
                }
            }
            Err(error) => {
                if seen.failure.as_ref() != Some(&error) {
                    tracing::error!(%service, %error, "certificate files towards endpoints are not taken over");
                    seen.failure = Some(error);
                    return false;
                }
            }
        }
        true
    }

    /// Another number once other files are in use.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// How long the certificates of the files in use are valid.
    #[must_use]
    pub fn dated(&self) -> Vec<Dated> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.dated.clone()
    }

    /// TLS over `stream` with the host `endpoint`.
    ///
    /// # Errors
    /// When it is not who it should be, does not take us for who we are, or does not speak TLS, or in it not HTTP/2
    /// where that is asked for (ALPN, RFC 9113 section 3.2).
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        endpoint: &str,
        stream: S,
    ) -> io::Result<TlsStream<S>> {
        let unusable = || io::Error::other("the service's certificate files cannot be used");
        let config = self.current.load_full().ok_or_else(unusable)?;
        let host = self.law.server_name.as_deref().unwrap_or(endpoint);
        let name = server_name(host).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        let agreed = stream.get_ref().1.alpn_protocol();
        if self.protocol == Protocol::Http2 && agreed != Some(ALPN_HTTP2) {
            return Err(io::Error::other(
                "the endpoint does not agree to HTTP/2 (ALPN h2)",
            ));
        }
        Ok(stream)
    }
}

/// What a host is called in TLS.
///
/// # Errors
/// A sentence.
pub fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(bare)
        .map(|name| name.to_owned())
        .map_err(|_| format!("`{host}` is no name of a server: write it like orders.internal"))
}

/// What is wrong with the files, if anything is.
///
/// # Errors
/// A sentence.
pub fn check(law: &UpstreamTls) -> Result<(), String> {
    Files::read(law)
        .and_then(|files| config(law, &files, Protocol::Http1))
        .map(drop)
}

impl Files {
    fn read(law: &UpstreamTls) -> Result<Self, String> {
        let own = law.own.as_ref();
        Ok(Self {
            ca: law.ca.as_deref().map(read).transpose()?,
            own: own
                .map(|own| Ok::<_, String>((read(&own.certificate)?, read(&own.key)?)))
                .transpose()?,
        })
    }
}

fn config(law: &UpstreamTls, files: &Files, protocol: Protocol) -> Result<ClientConfig, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let roots = Arc::new(roots(law.ca.as_ref(), files.ca.as_deref())?);
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let verifier: Arc<dyn ServerCertVerifier> = if law.spiffe.is_empty() {
        WebPkiServerVerifier::builder_with_provider(roots, provider)
            .build()
            .map_err(|error| error.to_string())?
    } else {
        Arc::new(SpiffeVerifier {
            roots,
            provider,
            spiffe: law.spiffe.clone(),
        })
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match (&law.own, &files.own) {
        (Some(own), Some((certificate, key))) => {
            let chain = certificates(&own.certificate, certificate)?;
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| {
                format!("{} is no PEM file with a private key: {error}", own.key.display())
            })?;
            builder.with_client_auth_cert(chain, key).map_err(|error| {
                format!(
                    "{} and {} do not belong together: {error}",
                    own.certificate.display(),
                    own.key.display()
                )
            })?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![match protocol {
        Protocol::Http1 => b"http/1.1".to_vec(),
        Protocol::Http2 => ALPN_HTTP2.to_vec(),
    }];
    // Sessions would be remembered in one place for all workers, and connections are kept anyway.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The authorities and the gateway's own certificate. Those of the system are the system's to renew.
fn dated(law: &UpstreamTls, files: &Files) -> Result<Vec<Dated>, String> {
    let mut dated = Vec::new();
    if let (Some(path), Some(pem)) = (&law.ca, &files.ca) {
        dated.extend(Dated::authorities(path, &certificates(path, pem)?));
    }
    if let (Some(own), Some((pem, _))) = (&law.own, &files.own) {
        let chain = certificates(&own.certificate, pem)?;
        dated.extend(Dated::own_chain(&own.certificate, &chain));
    }
    Ok(dated)
}

fn roots(path: Option<&PathBuf>, pem: Option<&[u8]>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if let (Some(path), Some(pem)) = (path, pem) {
        for certificate in certificates(path, pem)? {
            roots
                .add(certificate)
                .map_err(|error| format!("{} holds no authority's certificate: {error}", path.display()))?;
        }
        return Ok(roots);
    }
    // Systems carry certificates that the TLS stack does not take; the others do.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err("the system trusts no authority, and there is no `ca`".to_owned());
    }
    Ok(roots)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: io::Error| format!("cannot read {}: {error}", path.display());
    if fs::metadata(path).map_err(failed)?.len() > MAX_FILE {
        return Err(format!("{} is larger than {MAX_FILE} bytes", path.display()));
    }
    fs::read(path).map_err(failed)
}

/// At least one certificate.
fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{} is no PEM file with certificates: {error}", path.display()))?;
    if chain.is_empty() {
        return Err(format!("{} holds no certificate", path.display()));
    }
    Ok(chain)
}

/// Takes an endpoint for its SPIFFE identity, whatever its names (SPIFFE X.509-SVID, section 5).
#[derive(Debug)]
struct SpiffeVerifier {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    spiffe: Vec<SpiffePattern>,
}

impl ServerCertVerifier for SpiffeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        let bad = |_| Error::InvalidCertificate(CertificateError::BadEncoding);
        let identity = ClientCertificate::from_der(end_entity).map_err(bad)?.spiffe;
        let meant = |identity: &Arc<str>| self.spiffe.iter().any(|pattern| pattern.matches(identity));
        if identity.as_ref().is_some_and(meant) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::InvalidCertificate(CertificateError::NotValidForName))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
