//! The authorities of a listener's clients, each with those for whom it may vouch.
//!
//! Each verifies chains by itself, so that it is known which one has: one that may vouch for anybody does not lend that
//! to another. A certificate is of the first authority that verifies its chain and may vouch for whom it names.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::{certificate::ClientCertificate, config::Authority};

/// One of them.
#[derive(Debug)]
pub struct Vouching {
    pub authority: Authority,
    pub verifier: Arc<dyn ClientCertVerifier>,
}

/// All of them. At least one.
#[derive(Debug)]
pub struct Authorities {
    first: Vouching,
    others: Vec<Vouching>,
    hints: Vec<DistinguishedName>,
}

impl Authorities {
    /// `None`: there is none.
    pub fn new(all: Vec<Vouching>) -> Option<Self> {
        let hints = all.iter().flat_map(|each| each.verifier.root_hint_subjects());
        let hints = hints.cloned().collect();
        let mut all = all.into_iter();
        Some(Self {
            first: all.next()?,
            others: all.collect(),
            hints,
        })
    }

    /// Who vouches for a chain.
    ///
    /// # Errors
    /// Why nobody does: what the authority says that knows most of it.
    pub fn vouching(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<&Authority, Error> {
        let mut failed = match self.first.vouches(leaf, intermediates, now) {
            Ok(()) => return Ok(&self.first.authority),
            Err(error) => error,
        };
        for each in &self.others {
            match each.vouches(leaf, intermediates, now) {
                Ok(()) => return Ok(&each.authority),
                Err(error) if knowledge(&error) > knowledge(&failed) => failed = error,
                Err(_) => {}
            }
        }
        Err(failed)
    }

    /// Who vouches for a chain that a handshake has just verified. Where there is but one authority, it is that one;
    /// among several the chain is verified once more, since the TLS stack does not tell which it was.
    ///
    /// # Errors
    /// As [`Self::vouching`].
    pub fn vouched(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<&Authority, Error> {
        if self.others.is_empty() {
            return Ok(&self.first.authority);
        }
        self.vouching(leaf, intermediates, now)
    }
}

impl Vouching {
    fn vouches(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        self.verifier.verify_client_cert(leaf, intermediates, now)?;
        if self.authority.bounds.is_none() {
            return Ok(());
        }
        let certificate = ClientCertificate::from_der(leaf).map_err(|_| CertificateError::BadEncoding)?;
        certificate
            .vouched_for_by(&self.authority)
            .map(drop)
            .map_err(|_| CertificateError::ApplicationVerificationFailure.into())
    }
}

/// How much an authority knows of a certificate that it does not vouch for.
fn knowledge(error: &Error) -> u8 {
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => 0,
        Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure) => 2,
        _ => 1,
    }
}

impl ClientCertVerifier for Authorities {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn offer_client_auth(&self) -> bool {
        self.first.verifier.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.first.verifier.client_auth_mandatory()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.vouching(leaf, intermediates, now)
            .map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.first
            .verifier
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.first
            .verifier
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.first.verifier.supported_verify_schemes()
    }
}
