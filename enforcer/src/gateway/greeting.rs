//! The TLS handshake of a connection, and who it shows the client to be.

use std::{io, time::SystemTime};

use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    identity::certificate::{CertificateError, ClientCertificate},
    live::Socket,
    metrics::Handshake,
};

/// What the handshake has shown.
pub(super) struct Greeted {
    pub(super) stream: TlsStream<Socket>,
    pub(super) http2: bool,
    pub(super) certificate: Option<ClientCertificate>,
}

/// Why there is no TLS connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ungreeted {
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    #[error("the client's certificate cannot be read")]
    Certificate(#[source] CertificateError),
    #[error("the certificate of the resumed session has expired")]
    Expired,
    #[error("the TLS handshake took too long")]
    TooSlow,
    #[error("too many TLS handshakes have begun since")]
    GivenUp,
}

/// Shakes hands on `stream`.
///
/// # Errors
/// Why there is no TLS connection.
pub(super) async fn greet(acceptor: TlsAcceptor, stream: Socket) -> Result<Greeted, Ungreeted> {
    let stream = acceptor.accept(stream).await.map_err(Ungreeted::Tls)?;
    let (_, session) = stream.get_ref();
    let http2 = session.alpn_protocol() == Some(b"h2");
    let leaf = session.peer_certificates().and_then(<[_]>::first);
    let certificate = leaf
        .map(|leaf| ClientCertificate::from_der(leaf))
        .transpose()
        .map_err(Ungreeted::Certificate)?;
    // A resumed session is not verified again, and its certificate may have expired meanwhile.
    let now = SystemTime::now();
    if certificate
        .as_ref()
        .is_some_and(|certificate| certificate.not_after <= now)
    {
        return Err(Ungreeted::Expired);
    }
    Ok(Greeted {
        stream,
        http2,
        certificate,
    })
}

impl Ungreeted {
    pub(super) fn counts_as(&self) -> Handshake {
        match self {
            Self::Certificate(_) | Self::Expired => Handshake::Certificate,
            Self::Tls(_) if self.is_bad_proof() || self.is_without_proof() => Handshake::Certificate,
            Self::Tls(_) => Handshake::Failed,
            Self::TooSlow => Handshake::TimedOut,
            Self::GivenUp => Handshake::Refused,
        }
    }

    /// Whether the peer offered a certificate that does not hold.
    pub(super) fn is_bad_proof(&self) -> bool {
        match self {
            Self::Certificate(_) | Self::Expired => true,
            Self::Tls(_) => matches!(self.tls(), Some(rustls::Error::InvalidCertificate(_))),
            Self::TooSlow | Self::GivenUp => false,
        }
    }

    fn is_without_proof(&self) -> bool {
        matches!(self.tls(), Some(rustls::Error::NoCertificatesPresented))
    }

    fn tls(&self) -> Option<&rustls::Error> {
        match self {
            Self::Tls(error) => error.get_ref()?.downcast_ref(),
            _ => None,
        }
    }
}
