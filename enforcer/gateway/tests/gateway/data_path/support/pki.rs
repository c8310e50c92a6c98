//! Certificates for one test, in a directory of its own.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SanType,
};
use rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

/// The name on the server's certificate.
pub(crate) const HOST: &str = "api.example.com";

pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// An authority, the server's files, and clients' certificates.
pub(crate) struct Pki {
    directory: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

/// A client's certificate and key.
pub(crate) struct Client {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Pki {
    /// A new authority; `server.pem`, `server.key` and `ca.pem` are there.
    pub(crate) fn new() -> Self {
        Self::of("authority")
    }

    /// The same, with an authority of that name.
    pub(crate) fn of(name: &str) -> Self {
        let pki = Self {
            directory: TempDir::new().unwrap(),
            authority: authority(name),
        };
        pki.write("ca.pem", pki.authority.pem().as_bytes());
        pki.write_server(1);
        pki
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Replaces a file at once: nobody reads half of it.
    pub(crate) fn write(&self, name: &str, content: &[u8]) {
        let new = self.path("new");
        fs::write(&new, content).unwrap();
        fs::rename(new, self.path(name)).unwrap();
    }

    /// What a server with that certificate, written by [`Self::write_named`], accepts with.
    pub(crate) fn acceptor(&self, file: &str, alpn: &[&[u8]]) -> TlsAcceptor {
        let chain = CertificateDer::pem_file_iter(self.path(&format!("{file}.pem"))).unwrap();
        let chain = chain.map(|certificate| certificate.unwrap()).collect();
        let key = PrivateKeyDer::from_pem_file(self.path(&format!("{file}.key"))).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    /// Writes a new server certificate with that serial number.
    pub(crate) fn write_server(&self, serial: u8) {
        self.write_named("server", HOST, serial);
    }

    /// Writes a certificate for `host` with its key into files of that name.
    pub(crate) fn write_named(&self, file: &str, host: &str, serial: u8) {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.serial_number = Some(vec![serial].into());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        self.write(&format!("{file}.key"), key.serialize_pem().as_bytes());
        self.write(&format!("{file}.pem"), certificate.pem().as_bytes());
    }

    /// A client that the gateway's authority vouches for.
    pub(crate) fn client(&self, spiffe: &str) -> Client {
        client(&self.authority, spiffe, |_| ())
    }

    /// The same, other than usual.
    pub(crate) fn unusual_client(&self, spiffe: &str, change: impl FnOnce(&mut CertificateParams)) -> Client {
        client(&self.authority, spiffe, change)
    }

    /// The authority's certificate.
    pub(crate) fn authority_pem(&self) -> String {
        self.authority.pem()
    }

    /// Writes a revocation list of the authority into `crl.pem`, to be replaced at `next`.
    pub(crate) fn write_crl(&self, serials: &[u8], next: SystemTime) {
        let now = SystemTime::now();
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: vec![*serial].into(),
            revocation_time: now.into(),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: (now - 2 * DAY).into(),
            next_update: next.into(),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.authority).unwrap();
        self.write("crl.pem", list.pem().unwrap().as_bytes());
    }

    /// What a client of this gateway is configured with.
    pub(crate) fn client_config(&self, client: Option<Client>, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match client {
            Some(client) => builder
                .with_client_auth_cert(vec![client.certificate], client.key)
                .unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }
}

/// A client that a stranger's authority vouches for.
pub(crate) fn stranger(spiffe: &str) -> Client {
    client(&authority("stranger"), spiffe, |_| ())
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn client(
    authority: &CertifiedIssuer<'static, KeyPair>,
    spiffe: &str,
    change: impl FnOnce(&mut CertificateParams),
) -> Client {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![SanType::URI(spiffe.try_into().unwrap())];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    Client {
        certificate: certificate.der().clone(),
        key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
    }
}
