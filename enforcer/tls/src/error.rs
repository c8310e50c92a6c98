//! What is wrong with a listener's files.

use std::{io, path::PathBuf};

use rustls_pki_types::pem;

use super::watched::MAX_FILE;

/// Why a listener's files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is larger than {MAX_FILE} bytes: no certificate, key or revocation list is", path.display())]
    TooLarge { path: PathBuf },
    #[error("{} is no PEM file with {wanted}: {source}", path.display())]
    Pem {
        path: PathBuf,
        wanted: &'static str,
        source: pem::Error,
    },
    #[error("{} holds no {wanted}", path.display())]
    Empty { path: PathBuf, wanted: &'static str },
    #[error("{} holds a certificate that cannot be used: {reason}", path.display())]
    Certificate { path: PathBuf, reason: String },
    #[error("{} holds a revocation list that cannot be used: {reason}", path.display())]
    RevocationList { path: PathBuf, reason: String },
    #[error("client certificates are asked for, but no `clientCa` says who vouches for them")]
    NoAuthority,
    #[error("the listener has no certificate")]
    NoCertificate,
    #[error("{} and {} do not make a server: {source}{}", certificate.display(), key.display(), key_mismatch(source))]
    Server {
        certificate: PathBuf,
        key: PathBuf,
        source: rustls::Error,
    },
    #[error("TLS cannot be set up: {0}")]
    Setup(#[source] rustls::Error),
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
