//! Until when the certificates of files are valid.

use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use x509_parser::{
    certificate::Validity,
    prelude::{FromDer, X509Certificate},
    time::ASN1Time,
};

/// So long before its end a certificate should have been replaced, in seconds: 14 days.
const RENEW_BEFORE: i64 = 14 * 86_400;

/// A file with certificates, and how long they are valid.
#[derive(Clone, Debug)]
pub struct Dated {
    pub file: PathBuf,
    validity: Validity,
    /// What must be put there: a certificate of one's own has a key.
    with_key: bool,
}

impl Dated {
    /// A certificate of our own.
    pub fn own(file: &Path, validity: Validity) -> Self {
        Self {
            file: file.to_owned(),
            validity,
            with_key: true,
        }
    }

    /// The same, of a chain. `None`: nobody can read it.
    pub fn own_chain(file: &Path, chain: &[CertificateDer<'_>]) -> Option<Self> {
        Some(Self::own(file, validity(chain.first()?)?))
    }

    /// Authorities: of these the one that expires first.
    pub fn authorities(file: &Path, all: &[CertificateDer<'_>]) -> Option<Self> {
        let validities = all.iter().filter_map(validity);
        Some(Self {
            file: file.to_owned(),
            validity: validities.min_by_key(|validity| validity.not_after.timestamp())?,
            with_key: false,
        })
    }

    /// In seconds since 1970.
    pub fn expires(&self) -> i64 {
        self.validity.not_after.timestamp()
    }

    /// What is wrong, or will be soon.
    pub fn concern(&self, now: ASN1Time) -> Option<String> {
        let Validity {
            not_before,
            not_after,
        } = &self.validity;
        let what = if now < *not_before {
            format!("is not valid before {not_before}")
        } else if now > *not_after {
            format!("has expired at {not_after}")
        } else if not_after.timestamp() - now.timestamp() <= RENEW_BEFORE {
            format!("expires at {not_after}")
        } else {
            return None;
        };
        let path = self.file.display();
        Some(if self.with_key {
            format!("{path} {what}: put one there that is valid, with its key")
        } else {
            format!("an authority of {path} {what}: put its successor there")
        })
    }
}

fn validity(certificate: &CertificateDer<'_>) -> Option<Validity> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.validity().clone())
}
