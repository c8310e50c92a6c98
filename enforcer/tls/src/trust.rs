//! Which client certificates a listener trusts.

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use aws_lc_rs::digest::{Context, SHA256};
use rustls::{
    CertificateError, RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs::Ticketer},
    server::{ProducesTickets, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime, pem::PemObject};
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::{
    authority::{Authorities, Vouching},
    error::TlsError,
    server::certificates,
    validity::Dated,
    watched::{Contents, Digest},
};
use crate::config::{Authority, ClientCertificates, Depth, TlsConfig, Unsure};
use enforcer_model::flow::AuthorityId;

/// Who vouches for clients, and what has been revoked, at one time.
pub struct Trust {
    /// `None`: no certificate is asked for.
    authorities: Option<Arc<Authorities>>,
    pub tickets: Arc<dyn ProducesTickets>,
    /// Of each authority's file the certificate that expires first.
    pub dated: Vec<Dated>,
    /// Each file of revocation lists, and the earliest time, in seconds since 1970, at which one of them
    /// should have been replaced.
    pub next_updates: Vec<(PathBuf, Option<i64>)>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("asked", &self.authorities.is_some())
            .field("next_updates", &self.next_updates)
            .finish_non_exhaustive()
    }
}

/// Keys of session tickets, for listeners that trust the same.
///
/// A ticket holds the client's certificate, which nobody asks for again when a session is resumed. So
/// its key lives as long as the trust under which the certificate was verified: the authorities, what
/// is revoked, and whether a certificate is required.
#[derive(Debug, Default)]
pub struct Tickets(Mutex<HashMap<Digest, Weak<dyn ProducesTickets>>>);

impl Tickets {
    /// The keys for a trust; they rotate every six hours, and the last ones are accepted once more.
    fn of(&self, trust: Digest) -> Result<Arc<dyn ProducesTickets>, TlsError> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tickets) = known.get(&trust).and_then(Weak::upgrade) {
            return Ok(tickets);
        }
        known.retain(|_, tickets| tickets.strong_count() > 0);
        let tickets = Ticketer::new().map_err(TlsError::Random)?;
        known.insert(trust, Arc::downgrade(&tickets));
        Ok(tickets)
    }
}

impl Trust {
    /// The files that decide: the authorities', then those of revocation lists.
    ///
    /// # Errors
    /// If certificates are asked for and nobody vouches for them.
    pub fn paths(config: &TlsConfig) -> Result<Vec<PathBuf>, TlsError> {
        if config.client_certificates == ClientCertificates::Off {
            return Ok(Vec::new());
        }
        if config.authorities.is_empty() {
            return Err(TlsError::NoAuthority);
        }
        let authorities = config.authorities.iter().map(|authority| &authority.file);
        Ok(authorities.chain(revocation_files(config)).cloned().collect())
    }

    /// Of the contents of [`Self::paths`].
    pub fn new(
        config: &TlsConfig,
        contents: &Contents,
        provider: &Arc<CryptoProvider>,
        tickets: &Tickets,
    ) -> Result<Self, TlsError> {
        let tickets = tickets.of(trust_digest(config, contents.digest))?;
        if config.client_certificates == ClientCertificates::Off {
            return Ok(Self {
                authorities: None,
                tickets,
                dated: Vec::new(),
                next_updates: Vec::new(),
            });
        }
        let (files, lists) = contents
            .files
            .split_at_checked(config.authorities.len())
            .ok_or(TlsError::NoAuthority)?;
        let mut verifiers = Vec::new();
        let mut dated = Vec::new();
        for (authority, content) in config.authorities.iter().zip(files) {
            let certificates = certificates(&authority.file, content)?;
            dated.extend(Dated::authorities(&authority.file, &certificates));
            verifiers.push(verifier(config, authority, certificates, lists, provider)?);
        }
        let mut next_updates = Vec::new();
        for (path, content) in revocation_files(config).iter().zip(lists) {
            next_updates.push((path.clone(), revocation_lists(path, content)?.1));
        }
        Ok(Self {
            authorities: Authorities::new(verifiers).map(Arc::new),
            tickets,
            dated,
            next_updates,
        })
    }

    pub fn verifier(&self) -> Option<Arc<dyn ClientCertVerifier>> {
        let authorities = self.authorities.as_ref()?;
        Some(Arc::<Authorities>::clone(authorities))
    }

    /// Who vouches for a chain that a handshake has just verified. `None`: nobody was asked.
    ///
    /// # Errors
    /// Nobody vouches for it any more.
    pub fn vouched(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Option<&Authority>, rustls::Error> {
        let (Some(authorities), Some((leaf, intermediates))) = (&self.authorities, chain.split_first())
        else {
            return Ok(None);
        };
        authorities.vouched(leaf, intermediates, now).map(Some)
    }

    /// Whether a chain that a handshake has verified holds now: that of a resumed session, of which the
    /// TLS stack checks nothing. Also whether there must be one. Who vouches for it.
    ///
    /// # Errors
    /// Why it does not hold.
    pub fn verify_again(
        &self,
        chain: Option<&[CertificateDer<'_>]>,
        now: UnixTime,
    ) -> Result<Option<&Authority>, rustls::Error> {
        let split = chain.and_then(<[_]>::split_first);
        match (&self.authorities, split) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(CertificateError::UnknownIssuer.into()),
            (Some(authorities), None) if authorities.client_auth_mandatory() => {
                Err(rustls::Error::NoCertificatesPresented)
            }
            (Some(_), None) => Ok(None),
            (Some(authorities), Some((leaf, intermediates))) => {
                authorities.vouching(leaf, intermediates, now).map(Some)
            }
        }
    }

    /// Whether a living connection with this chain is to be ended: it has been revoked, or nobody
    /// vouches for it any more, or another authority than `authority`. That nothing certain is known of its revocation
    /// ends no connection.
    pub fn repudiates(
        &self,
        chain: &[CertificateDer<'_>],
        authority: Option<&AuthorityId>,
        now: UnixTime,
    ) -> bool {
        use CertificateError::{
            ExpiredRevocationList, ExpiredRevocationListContext, UnknownRevocationStatus,
        };
        match self.verify_again(Some(chain), now) {
            Ok(vouching) => vouching.and_then(|vouching| vouching.id.as_ref()) != authority,
            Err(rustls::Error::InvalidCertificate(
                ExpiredRevocationList | ExpiredRevocationListContext { .. } | UnknownRevocationStatus,
            )) => false,
            Err(_) => true,
        }
    }
}

fn revocation_files(config: &TlsConfig) -> &[PathBuf] {
    config
        .revocation
        .as_ref()
        .map_or(&[], |revocation| &revocation.lists[..])
}

/// What verifies the chains of one authority, with the revocation lists of all.
fn verifier(
    config: &TlsConfig,
    authority: &Authority,
    certificates: Vec<CertificateDer<'static>>,
    lists: &[Vec<u8>],
    provider: &Arc<CryptoProvider>,
) -> Result<Vouching, TlsError> {
    let unusable = |reason: String| TlsError::Certificate {
        path: authority.file.clone(),
        reason,
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots
            .add(certificate)
            .map_err(|error| unusable(error.to_string()))?;
    }
    let roots = Arc::new(roots);
    let builder = || WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider));
    let mut verifier = builder();
    if config.client_certificates == ClientCertificates::Optional {
        verifier = verifier.allow_unauthenticated();
    }
    if let Some(revocation) = &config.revocation {
        for (path, content) in revocation.lists.iter().zip(lists) {
            let (lists, _) = revocation_lists(path, content)?;
            // By itself, so that what cannot be used is said of its file.
            builder()
                .with_crls(lists.iter().cloned())
                .build()
                .map_err(|error| unusable_list(path, error))?;
            verifier = verifier.with_crls(lists);
        }
        if revocation.depth == Depth::Leaf {
            verifier = verifier.only_check_end_entity_revocation();
        }
        if revocation.unknown == Unsure::Allow {
            verifier = verifier.allow_unknown_revocation_status();
        }
        if revocation.expired == Unsure::Deny {
            verifier = verifier.enforce_revocation_expiration();
        }
    }
    let verifier = verifier.build().map_err(|error| unusable(error.to_string()))?;
    Ok(Vouching {
        authority: authority.clone(),
        verifier,
    })
}

/// What must be equal for sessions of one listener to be resumed at another.
fn trust_digest(config: &TlsConfig, files: Digest) -> Digest {
    let rest = format!(
        "{:?} {:?} {:?}",
        config.client_certificates,
        config.authorities,
        config.revocation.as_ref().map(|revocation| (
            revocation.unknown,
            revocation.expired,
            revocation.depth
        ))
    );
    let mut digest = Context::new(&SHA256);
    digest.update(&files);
    digest.update(rest.as_bytes());
    let mut out = Digest::default();
    out.copy_from_slice(digest.finish().as_ref());
    out
}

/// The lists of a file, at least one, and the earliest time at which one of them should have been
/// replaced. PEM, or one list as DER, which is what authorities publish (RFC 5280, section 4.2.1.13).
fn revocation_lists(
    path: &Path,
    content: &[u8],
) -> Result<(Vec<CertificateRevocationListDer<'static>>, Option<i64>), TlsError> {
    /// The first byte of DER: a SEQUENCE.
    const SEQUENCE: u8 = 0x30;
    let lists = if content.first() == Some(&SEQUENCE) {
        vec![content.to_vec().into()]
    } else {
        CertificateRevocationListDer::pem_slice_iter(content)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| TlsError::Pem {
                path: path.to_owned(),
                wanted: "revocation lists",
                source,
            })?
    };
    if lists.is_empty() {
        return Err(TlsError::Empty {
            path: path.to_owned(),
            wanted: "revocation list",
        });
    }
    let mut next_updates = Vec::new();
    for list in &lists {
        let (_, list) =
            CertificateRevocationList::from_der(list).map_err(|error| unusable_list(path, error))?;
        next_updates.extend(list.next_update().map(|time| time.timestamp()));
    }
    Ok((lists, next_updates.into_iter().min()))
}

fn unusable_list(path: &Path, error: impl fmt::Display) -> TlsError {
    TlsError::RevocationList {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}
