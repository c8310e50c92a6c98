//! A listener's own certificates, and which of them a client gets.

use std::{collections::HashMap, path::Path, sync::Arc};

use rustls::{
    crypto::CryptoProvider,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use super::{error::TlsError, validity::Dated};
use crate::config::CertificateFiles;

/// A certificate with its key, as it is used.
#[derive(Debug)]
pub struct ServerCertificate {
    key: Arc<CertifiedKey>,
    /// DNS names of its subject, lower case; some begin with `*.`.
    names: Vec<String>,
    pub dated: Dated,
}

impl ServerCertificate {
    /// Of PEM.
    ///
    /// # Errors
    /// What is wrong, also that the key belongs to another certificate.
    pub fn new(
        files: &CertificateFiles,
        certificate: &[u8],
        key: &[u8],
        provider: &CryptoProvider,
    ) -> Result<Self, TlsError> {
        let chain = certificates(&files.certificate, certificate)?;
        let unusable = |reason: String| TlsError::Certificate {
            path: files.certificate.clone(),
            reason,
        };
        let (_, leaf) = X509Certificate::from_der(&chain[0]).map_err(|error| unusable(error.to_string()))?;
        let names = leaf
            .subject_alternative_name()
            .map_err(|error| unusable(error.to_string()))?;
        let names = names.iter().flat_map(|names| &names.value.general_names);
        let names = names
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                _ => None,
            })
            .collect();
        let dated = Dated::own(&files.certificate, leaf.validity().clone());
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|source| TlsError::Pem {
            path: files.key.clone(),
            wanted: "a private key",
            source,
        })?;
        let key = CertifiedKey::from_der(chain, key, provider).map_err(|source| TlsError::Server {
            certificate: files.certificate.clone(),
            key: files.key.clone(),
            source,
        })?;
        Ok(Self {
            key: Arc::new(key),
            names,
            dated,
        })
    }
}

/// The certificates of a listener by their names.
///
/// The name that the client asks for (SNI, RFC 6066, section 3) decides: a certificate with exactly
/// this name; else one with `*` for its first label (RFC 9525, section 6.3); else the first. Of several
/// with the name, the first that the client can verify is used, so that a listener may have one with an
/// ECDSA and one with an RSA key.
#[derive(Debug)]
pub struct ByName {
    names: HashMap<String, Vec<Arc<CertifiedKey>>>,
    default: Vec<Arc<CertifiedKey>>,
}

impl ByName {
    /// At least one certificate; the first is the default.
    pub fn new(certificates: &[Arc<ServerCertificate>]) -> Result<Self, TlsError> {
        let first = certificates.first().ok_or(TlsError::NoCertificate)?;
        let mut names = HashMap::<_, Vec<_>>::new();
        for certificate in certificates {
            for name in &certificate.names {
                names
                    .entry(name.clone())
                    .or_default()
                    .push(Arc::clone(&certificate.key));
            }
        }
        // The default's twins may serve those who ask for no name.
        let twins = certificates
            .iter()
            .skip(1)
            .filter(|other| other.names == first.names);
        let default = std::iter::once(first).chain(twins);
        Ok(Self {
            names,
            default: default.map(|certificate| Arc::clone(&certificate.key)).collect(),
        })
    }

    fn of_name(&self, name: &str) -> Option<&[Arc<CertifiedKey>]> {
        let lower;
        let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            lower = name.to_ascii_lowercase();
            &*lower
        } else {
            name
        };
        if let Some(exact) = self.names.get(name) {
            return Some(exact);
        }
        let (_, parent) = name.split_once('.')?;
        self.names.get(&format!("*.{parent}")).map(Vec::as_slice)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let fitting = hello
            .server_name()
            .and_then(|name| self.of_name(name))
            .unwrap_or(&self.default);
        let can_verify =
            |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        fitting
            .iter()
            .find(can_verify)
            .or_else(|| fitting.first())
            .map(Arc::clone)
    }
}

/// At least one certificate.
pub fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
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
            wanted: "certificate",
        });
    }
    Ok(chain)
}
