//! The TLS handshake of a connection, and who it shows the client to be.

use std::{error::Error, io, sync::Arc, time::SystemTime};

use rustls::{CertificateError as Unverified, HandshakeKind};
use rustls_pki_types::UnixTime;
use tokio_rustls::{StartHandshake, server::TlsStream};

use super::{
    hello::{Heard, Hello, Passing, hear},
    metrics::Handshake,
    proof::Proof,
    socket::Socket,
};
use enforcer_model::Name;
use enforcer_routing::router::Router;
use enforcer_tls::{
    ListenerTls,
    certificate::{CertificateError, ClientCertificate, NotVouchedFor},
};

/// What the handshake has shown.
pub(super) struct Greeted {
    pub(super) stream: TlsStream<Heard>,
    pub(super) http2: bool,
    pub(super) certificate: Option<ClientCertificate>,
    /// What the certificate holds by.
    pub(super) proof: Option<Proof>,
}

/// What comes of the beginning of a TLS connection.
pub(super) enum Welcome {
    Greeted(Box<Greeted>),
    /// A service ends it.
    Passing(Box<Passing>),
}

/// Why there is no TLS connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ungreeted {
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    #[error("the client's certificate cannot be read")]
    Certificate(#[source] CertificateError),
    /// The session was resumed, or the files have changed during the handshake.
    #[error("the client is not trusted any more")]
    Resumed(#[source] rustls::Error),
    #[error(transparent)]
    NotVouchedFor(NotVouchedFor),
    #[error("the client's certificate has expired")]
    Expired,
    #[error("the TLS handshake took too long")]
    TooSlow,
    #[error("too many TLS handshakes have begun since")]
    GivenUp,
}

/// Shakes hands on `stream`, a connection at `listener`, unless `router` passes through what the client asks for.
///
/// # Errors
/// Why there is no TLS connection.
pub(super) async fn greet(
    tls: &Arc<ListenerTls>,
    stream: Socket,
    listener: &Name,
    router: &Router,
) -> Result<Welcome, Ungreeted> {
    Ok(
        match hear(stream, listener, router).await.map_err(Ungreeted::Tls)? {
            Hello::Ours(hello) => Welcome::Greeted(Box::new(shake_hands(tls, *hello).await?)),
            Hello::Services(passing) => Welcome::Passing(passing),
        },
    )
}

async fn shake_hands(tls: &Arc<ListenerTls>, hello: StartHandshake<Heard>) -> Result<Greeted, Ungreeted> {
    let served = tls.current();
    let accepting = hello.into_stream(Arc::clone(&served.server));
    let stream = accepting.await.map_err(Ungreeted::Tls)?;
    let (_, session) = stream.get_ref();
    let http2 = session.alpn_protocol() == Some(b"h2");
    let chain = session.peer_certificates();
    let vouching = if session.handshake_kind() == Some(HandshakeKind::Resumed) {
        // The TLS stack takes the certificate from the ticket, and does not verify it again. Its issuers
        // and the revocation lists may have expired meanwhile.
        served.trust.verify_again(chain, UnixTime::now())
    } else {
        served.trust.vouched(chain.unwrap_or_default(), UnixTime::now())
    };
    let vouching = vouching.map_err(Ungreeted::Resumed)?;
    let leaf = chain.and_then(<[_]>::first);
    let certificate = leaf
        .map(|leaf| ClientCertificate::from_der(leaf))
        .transpose()
        .map_err(Ungreeted::Certificate)?;
    let certificate = match (certificate, vouching) {
        (Some(certificate), Some(authority)) => Some(
            certificate
                .vouched_for_by(authority)
                .map_err(Ungreeted::NotVouchedFor)?,
        ),
        (certificate, _) => certificate,
    };
    let proof = match (&certificate, chain) {
        (Some(certificate), Some(chain)) => {
            let chain = chain.iter().map(|each| each.clone().into_owned()).collect();
            Some(Proof::new(
                chain,
                (certificate.not_after, certificate.authority.clone()),
                Arc::clone(tls),
                Arc::clone(&served.trust),
            ))
        }
        _ => None,
    };
    if proof
        .as_ref()
        .is_some_and(|proof| proof.has_expired(SystemTime::now()))
    {
        return Err(Ungreeted::Expired);
    }
    Ok(Greeted {
        stream,
        http2,
        certificate,
        proof,
    })
}

impl Ungreeted {
    pub(super) fn counts_as(&self) -> Handshake {
        match self {
            Self::Certificate(_) | Self::Resumed(_) | Self::NotVouchedFor(_) | Self::Expired => {
                Handshake::Certificate
            }
            Self::Tls(_) if self.is_bad_proof() || self.is_without_proof() => Handshake::Certificate,
            Self::Tls(_) => Handshake::Failed,
            Self::TooSlow => Handshake::TimedOut,
            Self::GivenUp => Handshake::Refused,
        }
    }

    /// Whether the peer offered a certificate that does not hold.
    pub(super) fn is_bad_proof(&self) -> bool {
        match self {
            Self::Certificate(_) | Self::Resumed(_) | Self::NotVouchedFor(_) | Self::Expired => true,
            Self::Tls(_) => matches!(self.tls(), Some(rustls::Error::InvalidCertificate(_))),
            Self::TooSlow | Self::GivenUp => false,
        }
    }

    /// Whether no trusted authority has made the certificate, or its holder has not the key. One that has expired, was
    /// revoked or has an unforeseen form is refused, and says nothing about whoever sent it.
    pub(super) fn is_forged(&self) -> bool {
        use Unverified::{BadEncoding, BadSignature, UnknownIssuer};
        matches!(
            self.tls(),
            Some(rustls::Error::InvalidCertificate(
                BadEncoding | BadSignature | UnknownIssuer
            ))
        )
    }

    /// What exactly was wrong, as the audit log names it.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Certificate(_) => "certificate_unreadable",
            Self::Resumed(error) => label(error),
            Self::NotVouchedFor(_) => NOT_VOUCHED_FOR,
            Self::Expired => "certificate_expired",
            Self::TooSlow => "timed_out",
            Self::GivenUp => "given_up",
            Self::Tls(_) => self.tls().map_or("connection", label),
        }
    }

    /// The same in a sentence.
    pub(super) fn told(&self) -> String {
        match self.source() {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
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

/// Its authority may not vouch for whom the certificate names.
const NOT_VOUCHED_FOR: &str = "certificate_not_vouched_for";

/// What exactly was wrong in TLS, in a word.
fn label(error: &rustls::Error) -> &'static str {
    let rustls::Error::InvalidCertificate(error) = error else {
        return match error {
            rustls::Error::NoCertificatesPresented => "certificate_missing",
            _ => "tls",
        };
    };
    match error {
        Unverified::Expired | Unverified::ExpiredContext { .. } => "certificate_expired",
        Unverified::NotValidYet | Unverified::NotValidYetContext { .. } => "certificate_not_yet_valid",
        Unverified::Revoked => "certificate_revoked",
        Unverified::UnknownIssuer => "certificate_unknown_authority",
        Unverified::UnknownRevocationStatus
        | Unverified::ExpiredRevocationList
        | Unverified::ExpiredRevocationListContext { .. } => "certificate_revocation_unknown",
        Unverified::ApplicationVerificationFailure => NOT_VOUCHED_FOR,
        _ => "certificate_invalid",
    }
}
