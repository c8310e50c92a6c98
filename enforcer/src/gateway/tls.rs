//! A listener's TLS, and how its files come into it.
//!
//! Files are compared by content, so that a replaced symbolic link (as Kubernetes does it) or a
//! rewritten file is noticed alike. Files that do not fit leave the old ones in use. Connections keep
//! what they began with. Each change takes new ticket keys: a session that an old authority vouched
//! for is not resumed under a new one.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject},
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::config::{ClientCertificates, TlsConfig};

/// A key or certificate file is read up to this many bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Why a listener's files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is larger than {MAX_FILE} bytes: no certificate or key is", path.display())]
    TooLarge { path: PathBuf },
    #[error("{} is no PEM file with {wanted}: {source}", path.display())]
    Pem {
        path: PathBuf,
        wanted: &'static str,
        source: pem::Error,
    },
    #[error("{} holds no certificate", path.display())]
    Empty { path: PathBuf },
    #[error("{} holds a certificate that cannot be used: {reason}", path.display())]
    Certificate { path: PathBuf, reason: String },
    #[error("client certificates are asked for, but no `client_ca` says who vouches for them")]
    NoAuthority,
    #[error("{} and {} do not make a server: {source}{}", certificate.display(), key.display(), key_mismatch(source))]
    Server {
        certificate: PathBuf,
        key: PathBuf,
        source: rustls::Error,
    },
    #[error("the random source fails: {0}")]
    Random(#[source] rustls::Error),
}

/// What to do where a key belongs to another certificate.
fn key_mismatch(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::InconsistentKeys(_) => {
            "; `openssl x509 -noout -pubkey -in` the certificate and `openssl pkey -pubout -in` the key print the same \
             where they belong together"
        }
        _ => "",
    }
}

/// A listener's TLS, which changes with its files.
#[derive(Debug)]
pub struct ListenerTls {
    config: TlsConfig,
    current: ArcSwap<ServerConfig>,
    files: Mutex<Files>,
    /// The last failure, until files are taken over again.
    failed: Mutex<Option<String>>,
}

/// The contents of a listener's files.
#[derive(Debug, PartialEq, Eq)]
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// What came of looking at the files again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    Unchanged,
    /// New ones are in use; the leaf expires then, in seconds since 1970.
    Changed {
        expiry: i64,
    },
}

impl ListenerTls {
    /// Reads the files. Also says when the leaf expires, in seconds since 1970.
    ///
    /// # Errors
    /// Which file is wrong, and how.
    pub fn load(config: &TlsConfig) -> Result<(Self, i64), TlsError> {
        let files = Files::read(config)?;
        let (server, expiry) = files.build(config)?;
        let tls = Self {
            config: config.clone(),
            current: ArcSwap::new(Arc::new(server)),
            files: Mutex::new(files),
            failed: Mutex::default(),
        };
        Ok((tls, expiry))
    }

    /// What new connections are served with.
    #[must_use]
    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Whether the result of [`Self::reload`] is other than that of the last time, when it failed.
    pub(super) fn is_news(&self, result: &Result<Reload, TlsError>) -> bool {
        let failure = result.as_ref().err().map(ToString::to_string);
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let news = *failed != failure;
        *failed = failure;
        news
    }

    /// Takes the files over if they have changed. Reads them, so not for a worker's thread.
    ///
    /// # Errors
    /// Which file is wrong, and how; the old ones stay in use.
    pub fn reload(&self) -> Result<Reload, TlsError> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = Files::read(&self.config)?;
        if fresh == *files {
            return Ok(Reload::Unchanged);
        }
        let (server, expiry) = fresh.build(&self.config)?;
        self.current.store(Arc::new(server));
        *files = fresh;
        Ok(Reload::Changed { expiry })
    }
}

impl Files {
    fn read(config: &TlsConfig) -> Result<Self, TlsError> {
        let asked = config.client_certificates != ClientCertificates::Off;
        if asked && config.client_ca.is_none() {
            return Err(TlsError::NoAuthority);
        }
        Ok(Self {
            certificate: read(&config.certificate)?,
            key: read(&config.key)?,
            client_ca: config
                .client_ca
                .as_deref()
                .filter(|_| asked)
                .map(read)
                .transpose()?,
        })
    }

    fn build(&self, config: &TlsConfig) -> Result<(ServerConfig, i64), TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let chain = certificates(&config.certificate, &self.certificate)?;
        let expiry = expiry(&config.certificate, &chain[0])?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|source| TlsError::Pem {
            path: config.key.clone(),
            wanted: "a private key",
            source,
        })?;
        let server = |source| TlsError::Server {
            certificate: config.certificate.clone(),
            key: config.key.clone(),
            source,
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(server)?;
        let builder = match self.verifier(config, provider)? {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut server = builder.with_single_cert(chain, key).map_err(server)?;
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Sessions live in tickets at the client, whose keys rotate; the gateway stores none.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.ticketer = aws_lc_rs::Ticketer::new().map_err(TlsError::Random)?;
        server.send_tls13_tickets = 1;
        Ok((server, expiry))
    }

    fn verifier(
        &self,
        config: &TlsConfig,
        provider: Arc<CryptoProvider>,
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
        let (Some(pem), Some(path)) = (&self.client_ca, &config.client_ca) else {
            return Ok(None);
        };
        let unusable = |reason: String| TlsError::Certificate {
            path: path.clone(),
            reason,
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(path, pem)? {
            roots
                .add(certificate)
                .map_err(|error| unusable(error.to_string()))?;
        }
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        if config.client_certificates == ClientCertificates::Optional {
            builder = builder.allow_unauthenticated();
        }
        builder
            .build()
            .map(Some)
            .map_err(|error| unusable(error.to_string()))
    }
}

fn read(path: impl AsRef<Path>) -> Result<Vec<u8>, TlsError> {
    let path = path.as_ref();
    let failed = |source| TlsError::Read {
        path: path.to_owned(),
        source,
    };
    if fs::metadata(path).map_err(failed)?.len() > MAX_FILE {
        return Err(TlsError::TooLarge {
            path: path.to_owned(),
        });
    }
    fs::read(path).map_err(failed)
}

/// At least one certificate.
fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Pem {
            path: path.to_owned(),
            wanted: "certificates",
            source,
        })?;
    if chain.is_empty() {
        return Err(TlsError::Empty {
            path: path.to_owned(),
        });
    }
    Ok(chain)
}

fn expiry(path: &Path, leaf: &CertificateDer<'_>) -> Result<i64, TlsError> {
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|error| TlsError::Certificate {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    Ok(leaf.validity().not_after.timestamp())
}
