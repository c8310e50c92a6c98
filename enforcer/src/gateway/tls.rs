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
use x509_parser::{
    certificate::Validity,
    prelude::{FromDer, X509Certificate},
    time::ASN1Time,
};

use super::config::{ClientCertificates, TlsConfig};

/// A key or certificate file is read up to this many bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// So long before its end a certificate should have been replaced, in seconds: 14 days.
const RENEW_BEFORE: i64 = 14 * 86_400;

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
    /// The leaf's.
    validity: Mutex<Validity>,
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
        let (server, validity) = files.build(config)?;
        let tls = Self {
            config: config.clone(),
            current: ArcSwap::new(Arc::new(server)),
            files: Mutex::new(files),
            failed: Mutex::default(),
            validity: Mutex::new(validity.clone()),
        };
        Ok((tls, validity.not_after.timestamp()))
    }

    /// What new connections are served with.
    #[must_use]
    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// What is wrong with the validity of the certificate in use, or will be soon.
    pub(super) fn concern(&self, now: ASN1Time) -> Option<String> {
        let validity = self.validity.lock().unwrap_or_else(PoisonError::into_inner);
        let Validity {
            not_before,
            not_after,
        } = &*validity;
        let what = if now < *not_before {
            format!("is not valid before {not_before}")
        } else if now > *not_after {
            format!("has expired at {not_after}")
        } else if not_after.timestamp() - now.timestamp() <= RENEW_BEFORE {
            format!("expires at {not_after}")
        } else {
            return None;
        };
        let path = self.config.certificate.display();
        Some(format!(
            "{path} {what}: put one there that is valid, with its key"
        ))
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
        let (server, validity) = fresh.build(&self.config)?;
        self.current.store(Arc::new(server));
        *files = fresh;
        let expiry = validity.not_after.timestamp();
        *self.validity.lock().unwrap_or_else(PoisonError::into_inner) = validity;
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

    fn build(&self, config: &TlsConfig) -> Result<(ServerConfig, Validity), TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let chain = certificates(&config.certificate, &self.certificate)?;
        let validity = validity(&config.certificate, &chain[0])?;
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
        Ok((server, validity))
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

fn validity(path: &Path, leaf: &CertificateDer<'_>) -> Result<Validity, TlsError> {
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|error| TlsError::Certificate {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    Ok(leaf.validity().clone())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    /// Files with a certificate for January 2031 in `directory`.
    fn january(directory: &Path) -> TlsConfig {
        let mut params = CertificateParams::new(vec!["api.example.com".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2031, 1, 1);
        params.not_after = date_time_ymd(2031, 1, 31);
        let key = KeyPair::generate().unwrap();
        let config = TlsConfig {
            certificate: directory.join("server.pem"),
            key: directory.join("server.key"),
            client_certificates: ClientCertificates::Off,
            client_ca: None,
        };
        fs::write(&config.certificate, params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(&config.key, key.serialize_pem()).unwrap();
        config
    }

    #[test]
    fn concerns_about_validity() {
        let directory = tempfile::tempdir().unwrap();
        let (tls, _) = ListenerTls::load(&january(directory.path())).unwrap();
        let at = |year, month, day| {
            let time = date_time_ymd(year, month, day).unix_timestamp();
            tls.concern(ASN1Time::from_timestamp(time).unwrap())
        };
        for (month, day, words) in [
            (1, 2, None),
            (1, 16, None),
            (1, 18, Some("expires at Jan 31")),
            (2, 1, Some("has expired at Jan 31")),
        ] {
            let concern = at(2031, month, day);
            assert_eq!(concern.is_some(), words.is_some(), "{month} {day}: {concern:?}");
            if let (Some(concern), Some(words)) = (concern, words) {
                assert!(
                    concern.contains(words) && concern.contains("server.pem"),
                    "{concern}"
                );
            }
        }
        let early = at(2030, 12, 31).unwrap();
        assert!(early.contains("is not valid before Jan  1"), "{early}");
    }
}
