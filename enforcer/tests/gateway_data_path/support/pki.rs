//! Certificates for one test, in a directory of its own.

use std::{fs, path::PathBuf, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;

/// The name on the server's certificate.
pub(crate) const HOST: &str = "api.example.com";

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
        let pki = Self {
            directory: TempDir::new().unwrap(),
            authority: authority("authority"),
        };
        fs::write(pki.path("ca.pem"), pki.authority.pem()).unwrap();
        pki.write_server(1);
        pki
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a new server certificate with that serial number.
    pub(crate) fn write_server(&self, serial: u8) {
        let mut params = CertificateParams::new(vec![HOST.to_owned()]).unwrap();
        params.serial_number = Some(vec![serial].into());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        fs::write(self.path("server.key"), key.serialize_pem()).unwrap();
        fs::write(self.path("server.pem"), certificate.pem()).unwrap();
    }

    /// A client that the gateway's authority vouches for.
    pub(crate) fn client(&self, spiffe: &str) -> Client {
        client(&self.authority, spiffe)
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
    client(&authority("stranger"), spiffe)
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn client(authority: &CertifiedIssuer<'static, KeyPair>, spiffe: &str) -> Client {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![SanType::URI(spiffe.try_into().unwrap())];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    Client {
        certificate: certificate.der().clone(),
        key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
    }
}
