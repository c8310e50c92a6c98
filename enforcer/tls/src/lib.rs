//! A listener's TLS, and how its files come into it.
//!
//! Each certificate with its key, and the clients' authorities with their revocation lists, are taken
//! over for themselves: what is wrong with one of them leaves that one as it was, and hinders no other.
//! Connections keep the server certificate that they began with. That clients are trusted is looked at
//! again when the trust changes, for connections (see `Trust::repudiates`) and for sessions, whose
//! tickets are of no use then.

#![forbid(unsafe_code)]

mod authority;
pub mod certificate;
pub mod config;
mod error;
pub mod file_stamp;
pub mod names;
mod server;
pub mod service;
mod spiffe;
mod trust;
mod validity;
mod watched;

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::NoServerSessionStorage,
    version::{TLS12, TLS13},
};
use rustls_pki_types::CertificateDer;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use x509_parser::{
    prelude::{FromDer, X509Certificate},
    time::ASN1Time,
};

pub use self::validity::Dated;
pub use self::{
    error::TlsError,
    trust::{Tickets, Trust},
};
use self::{
    server::{ByName, ServerCertificate},
    watched::{Contents, Watched},
};
use crate::config::{CertificateFiles, TlsConfig};

/// A listener's TLS, which changes with its files.
#[derive(Debug)]
pub struct ListenerTls {
    config: TlsConfig,
    tickets: Arc<Tickets>,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<Served>,
    /// Held while files are read, however long that takes: by the thread that does, and by nobody else.
    parts: Mutex<Parts>,
    /// The last failures, until files are taken over again.
    failed: Mutex<Vec<String>>,
}

/// What new connections are served with.
#[derive(Debug)]
pub struct Served {
    pub server: Arc<ServerConfig>,
    pub trust: Arc<Trust>,
    /// What can expire.
    dated: Vec<Dated>,
}

#[derive(Debug)]
struct Parts {
    certificates: Vec<Watched<ServerCertificate>>,
    trust: Watched<Trust>,
}

/// What came of looking at the files again.
#[derive(Debug, Default)]
pub struct Reload {
    /// Something new is in use.
    pub changed: bool,
    /// What was wrong; the old ones stay in use.
    pub errors: Vec<TlsError>,
}

/// Until when something of a listener is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    pub file: PathBuf,
    /// In seconds since 1970.
    pub at: i64,
}

impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        let at = OffsetDateTime::from_unix_timestamp(self.at).ok();
        match at.and_then(|at| at.format(&Rfc3339).ok()) {
            Some(at) => write!(f, " until {at}"),
            None => Ok(()),
        }
    }
}

/// Whether a certificate and its key make a server, without one.
///
/// # Errors
/// Which file is wrong, and how.
pub fn check(files: &CertificateFiles) -> Result<(), TlsError> {
    let contents = Contents::read(&paths(files))?;
    certificate(files, &contents, &aws_lc_rs::default_provider()).map(drop)
}

/// The subjects of the authorities in a file. `None`: it cannot be read as one.
pub fn subjects(file: &Path) -> Option<BTreeSet<Vec<u8>>> {
    let contents = Contents::read(&[file.to_owned()]).ok()?;
    let certificates = server::certificates(file, contents.files.first()?).ok()?;
    let subject = |der: &CertificateDer<'_>| {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        Some(certificate.subject().as_raw().to_vec())
    };
    certificates.iter().map(subject).collect()
}

impl ListenerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// Which file is wrong, and how.
    pub fn load(config: &TlsConfig, tickets: &Arc<Tickets>) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let load = |files| Watched::load(paths(files), |contents| certificate(files, contents, &provider));
        let trust = Watched::load(Trust::paths(config)?, |contents| {
            Trust::new(config, contents, &provider, tickets)
        })?;
        let parts = Parts {
            certificates: config.certificates.iter().map(load).collect::<Result<_, _>>()?,
            trust,
        };
        Ok(Self {
            config: config.clone(),
            tickets: Arc::clone(tickets),
            current: ArcSwap::new(Arc::new(parts.serve(&provider)?)),
            provider,
            parts: Mutex::new(parts),
            failed: Mutex::default(),
        })
    }

    /// What new connections are served with.
    #[must_use]
    pub fn current(&self) -> Arc<Served> {
        self.current.load_full()
    }

    /// Who is trusted now.
    pub fn trust(&self) -> Arc<Trust> {
        Arc::clone(&self.current.load().trust)
    }

    /// Whether `trust` is what is trusted now.
    pub fn trusts_as(&self, trust: &Arc<Trust>) -> bool {
        Arc::ptr_eq(&self.current.load().trust, trust)
    }

    /// When each certificate in use expires, and the first of each file of clients' authorities.
    pub fn expiries(&self) -> Vec<Expiry> {
        let current = self.current.load();
        let expiry = |dated: &Dated| Expiry {
            at: dated.expires(),
            file: dated.file.clone(),
        };
        current.dated.iter().map(expiry).collect()
    }

    /// When the lists of each file of revocation lists in use should have been replaced; 0 where they
    /// do not say.
    pub fn next_updates(&self) -> Vec<Expiry> {
        let trust = self.trust();
        let lists = trust.next_updates.iter();
        lists
            .map(|(file, at)| Expiry {
                file: file.clone(),
                at: at.unwrap_or(0),
            })
            .collect()
    }

    /// What is wrong with the validity of what is in use, or will be soon.
    pub fn concerns(&self, now: ASN1Time) -> Vec<String> {
        let current = self.current.load();
        let certificates = current.dated.iter().filter_map(|dated| dated.concern(now));
        let lists = current.trust.next_updates.iter();
        let lists = lists.filter_map(|(file, at)| {
            let over = at.is_some_and(|at| at < now.timestamp());
            over.then(|| {
                format!(
                    "a revocation list of {} should have been replaced by now: put its successor there",
                    file.display()
                )
            })
        });
        certificates.chain(lists).collect()
    }

    /// Those of the errors that the last look at the files did not have.
    pub fn news<'a>(&self, errors: &'a [TlsError]) -> Vec<&'a TlsError> {
        let messages = errors.iter().map(ToString::to_string).collect();
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let known = std::mem::replace(&mut *failed, messages);
        let is_new = |error: &&TlsError| !known.contains(&error.to_string());
        errors.iter().filter(is_new).collect()
    }

    /// What is wrong with the files, as they were last looked at.
    pub fn failures(&self) -> Vec<String> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.iter().cloned().collect()
    }

    /// Takes the files over that have changed. May read them, so not for a worker's thread.
    pub fn reload(&self) -> Reload {
        let mut parts = self.parts();
        let mut reload = Reload::default();
        let mut count = |looked| match looked {
            Ok(changed) => reload.changed |= changed,
            Err(error) => reload.errors.push(error),
        };
        for (files, watched) in self.config.certificates.iter().zip(&mut parts.certificates) {
            count(watched.look(|contents| certificate(files, contents, &self.provider)));
        }
        count(
            parts
                .trust
                .look(|contents| Trust::new(&self.config, contents, &self.provider, &self.tickets)),
        );
        if reload.changed {
            match parts.serve(&self.provider) {
                Ok(served) => self.current.store(Arc::new(served)),
                Err(error) => reload.errors.push(error),
            }
        }
        reload
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parts {
    /// What can expire.
    fn dated(&self) -> impl Iterator<Item = Dated> {
        let certificates = self.certificates.iter().map(|watched| &watched.value().dated);
        certificates.chain(&self.trust.value().dated).cloned()
    }

    fn serve(&self, provider: &Arc<CryptoProvider>) -> Result<Served, TlsError> {
        let certificates: Vec<_> = self
            .certificates
            .iter()
            .map(|watched| Arc::clone(watched.value()))
            .collect();
        let trust = Arc::clone(self.trust.value());
        let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(TlsError::Setup)?;
        let builder = match trust.verifier() {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut server = builder.with_cert_resolver(Arc::new(ByName::new(&certificates)?));
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Sessions live in tickets at the client, whose keys rotate; the gateway stores none.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.ticketer = Arc::clone(&trust.tickets);
        server.send_tls13_tickets = 1;
        Ok(Served {
            server: Arc::new(server),
            trust,
            dated: self.dated().collect(),
        })
    }
}

fn paths(files: &CertificateFiles) -> Vec<PathBuf> {
    vec![files.certificate.clone(), files.key.clone()]
}

fn certificate(
    files: &CertificateFiles,
    contents: &Contents,
    provider: &CryptoProvider,
) -> Result<ServerCertificate, TlsError> {
    let [certificate, key] = &contents.files[..] else {
        return Err(TlsError::NoCertificate);
    };
    ServerCertificate::new(files, certificate, key, provider)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;
    use crate::config::{Authority, ClientCertificates};

    /// Files with a certificate for January 2031 in `directory`.
    fn january(directory: &Path) -> TlsConfig {
        let mut params = CertificateParams::new(vec!["api.example.com".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2031, 1, 1);
        params.not_after = date_time_ymd(2031, 1, 31);
        let key = KeyPair::generate().unwrap();
        let files = CertificateFiles {
            certificate: directory.join("server.pem"),
            key: directory.join("server.key"),
        };
        fs::write(&files.certificate, params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        TlsConfig {
            certificates: vec![files],
            client_certificates: ClientCertificates::Off,
            authorities: Vec::new(),
            revocation: None,
        }
    }

    #[test]
    fn concerns_about_validity() {
        let directory = tempfile::tempdir().unwrap();
        let tls = ListenerTls::load(&january(directory.path()), &Arc::default()).unwrap();
        let at = |year, month, day| {
            let time = date_time_ymd(year, month, day).unix_timestamp();
            tls.concerns(ASN1Time::from_timestamp(time).unwrap()).pop()
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
        assert!(early.contains("with its key"), "{early}");
    }

    #[test]
    fn concerns_about_authorities() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = january(directory.path());
        let own = &config.certificates[0].certificate;
        let authorities = directory.path().join("ca.pem");
        fs::copy(own, &authorities).unwrap();
        config.authorities = vec![Authority {
            id: None,
            file: authorities.clone(),
            bounds: None,
        }];
        config.client_certificates = ClientCertificates::Required;
        let tls = ListenerTls::load(&config, &Arc::default()).unwrap();
        let at = date_time_ymd(2031, 1, 18).unix_timestamp();
        let concerns = tls.concerns(ASN1Time::from_timestamp(at).unwrap());
        assert!(
            matches!(&concerns[..], [_, last] if last.contains("an authority of") && last.contains("ca.pem expires at Jan 31")),
            "{concerns:?}"
        );
        assert_eq!(tls.expiries()[1].file, authorities);
    }
}
