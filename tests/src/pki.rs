//! Throw-away certificates.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};

/// Certificates are valid from a little before now, for clocks that differ, and for a day.
const VALID_FROM: Duration = Duration::minutes(-5);
const VALID_UNTIL: Duration = Duration::days(1);

/// An authority that signs certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key.
#[derive(Debug)]
pub struct Identity {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

/// Where an [`Identity`] was written.
#[derive(Clone, Debug)]
pub struct IdentityFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// An authority of its own; two of the same name do not trust each other.
    ///
    /// # Errors
    /// If no key can be made.
    pub fn create(name: &str) -> Result<Self> {
        let mut parameters = parameters(name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?;
        Ok(Self { issuer })
    }

    /// A certificate for a server of these names and addresses.
    ///
    /// # Errors
    /// If a name is not a DNS name.
    pub fn server(&self, names: &[&str], addresses: &[IpAddr]) -> Result<Identity> {
        let mut parameters = parameters(names.first().copied().unwrap_or("server"));
        for name in names {
            let name = (*name)
                .try_into()
                .with_context(|| format!("{name} is no DNS name"))?;
            parameters.subject_alt_names.push(SanType::DnsName(name));
        }
        parameters
            .subject_alt_names
            .extend(addresses.iter().copied().map(SanType::IpAddress));
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(parameters)
    }

    /// A client's certificate with a SPIFFE identity (X.509-SVID: exactly one URI).
    ///
    /// # Errors
    /// If `spiffe` is not ASCII.
    pub fn client(&self, spiffe: &str) -> Result<Identity> {
        let mut parameters = parameters(spiffe.rsplit('/').next().unwrap_or(spiffe));
        let uri = spiffe.try_into().with_context(|| format!("{spiffe} is no URI"))?;
        parameters.subject_alt_names.push(SanType::URI(uri));
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(parameters)
    }

    /// Its certificate.
    #[must_use]
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// Writes its certificate.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, folder: &Path, name: &str) -> Result<PathBuf> {
        write(&folder.join(format!("{name}.pem")), &self.issuer.pem())
    }

    fn sign(&self, mut parameters: CertificateParams) -> Result<Identity> {
        let key = KeyPair::generate()?;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.use_authority_key_identifier_extension = true;
        let certificate = parameters.signed_by(&key, &self.issuer)?;
        Ok(Identity { certificate, key })
    }
}

impl Identity {
    /// The chain, which is the certificate alone: authorities sign directly.
    #[must_use]
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.der().clone()]
    }

    /// The private key.
    #[must_use]
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }

    /// Writes `NAME.pem` and `NAME-key.pem`.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, folder: &Path, name: &str) -> Result<IdentityFiles> {
        Ok(IdentityFiles {
            certificate: write(&folder.join(format!("{name}.pem")), &self.certificate.pem())?,
            key: write(&folder.join(format!("{name}-key.pem")), &self.key.serialize_pem())?,
        })
    }
}

fn parameters(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    let now = OffsetDateTime::now_utc();
    parameters.not_before = now + VALID_FROM;
    parameters.not_after = now + VALID_UNTIL;
    parameters
}

fn write(path: &Path, pem: &str) -> Result<PathBuf> {
    std::fs::write(path, pem).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path.to_owned())
}
