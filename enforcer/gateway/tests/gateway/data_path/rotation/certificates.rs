//! The listeners' certificate, revocation lists, authorities of clients.

use std::{fs, os::unix::fs::symlink, time::SystemTime};

use x509_parser::prelude::{FromDer, X509Certificate};

use super::ground::{Ground, SPIFFE};
use crate::data_path::support::{
    eventually,
    pki::{self, DAY, HOST, Pki},
};

/// The serial numbers of the server's certificates.
pub(super) const FIRST: u8 = 21;
pub(super) const VERSIONS: [u8; 3] = [22, 23, 24];

/// The serial numbers of clients' certificates that are revoked.
pub(super) const UNUSED: u8 = 201;
pub(super) const DOOMED: u8 = 202;

pub(super) fn numbered(pki: &Pki, serial: u8) -> pki::Client {
    pki.unusual_client(SPIFFE, |params| params.serial_number = Some(vec![serial].into()))
}

/// Writes the server's certificate and key into a folder of their own.
pub(super) fn write_version(pki: &Pki, serial: u8) {
    fs::create_dir(pki.path(&serial.to_string())).unwrap();
    pki.write_named(&format!("{serial}/server"), HOST, serial);
}

/// As Kubernetes replaces a mounted secret: the link is swapped, and then the old files are removed.
pub(super) async fn swap(ground: &Ground, serial: u8) {
    let pki = &ground.lab.pki;
    let old = fs::read_link(pki.path("..data")).unwrap();
    write_version(pki, serial);
    symlink(serial.to_string(), pki.path("..data_tmp")).unwrap();
    fs::rename(pki.path("..data_tmp"), pki.path("..data")).unwrap();
    fs::remove_dir_all(pki.path(old.to_str().unwrap())).unwrap();
    for listener in 0..ground.lab.gateway.addresses().len() {
        eventually("the new certificate is served", async || {
            let leaf = ground.served_by(listener).await;
            let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
            leaf.raw_serial() == [serial]
        })
        .await;
    }
    assert!(
        ground
            .lab
            .metrics()
            .contains("enforcer_certificate_reload_failures_total 0")
    );
}

/// Replaces the revocation list: the last of these is new in it.
pub(super) async fn revoke(ground: &Ground, serials: &[u8]) {
    let last = *serials.last().unwrap();
    let certificate = || numbered(&ground.lab.pki, last);
    assert_eq!(ground.asks_with(certificate).await, [200; 4]);
    ground.lab.pki.write_crl(serials, SystemTime::now() + DAY);
    eventually("it is refused", async || {
        ground.asks_with(certificate).await == [0; 4]
    })
    .await;
}

/// The authorities' file gets another one, whose clients are admitted then.
pub(super) async fn trust_another(ground: &Ground) {
    let another = Pki::of("another");
    let certificate = || another.client(SPIFFE);
    assert_eq!(ground.asks_with(certificate).await, [0; 4]);
    let pki = &ground.lab.pki;
    pki.write(
        "ca.pem",
        (pki.authority_pem() + &another.authority_pem()).as_bytes(),
    );
    eventually("it is trusted", async || {
        ground.asks_with(certificate).await == [200; 4]
    })
    .await;
}
