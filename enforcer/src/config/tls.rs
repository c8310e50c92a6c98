//! Judges a listener's TLS as it is written.

use std::io;

use super::{
    CertificateFiles, ClientTrust, Clients, Depth, Revocation, Tls, Unsure, authorities::authorities,
    build::existing_file, raw,
};
use enforcer_policy::yaml::place::Place;
use enforcer_tls::TlsError;

/// The most certificates of a listener, and files of revocation lists.
const MAX_FILES: usize = 1024;

pub(super) fn tls(raw: raw::Tls, at: &Place<'_>) -> Option<Tls> {
    let first = certificate(raw.certificate, raw.key, at);
    let more = raw.certificates.unwrap_or_default();
    if more.len() + 1 > MAX_FILES {
        at.field("certificates")
            .error(format!("a listener has at most {MAX_FILES} certificates"));
    }
    let more = at.each("certificates", more, |(raw, at)| {
        certificate(raw.certificate, raw.key, &at)
    });
    let has_ca = raw.client_ca.is_some();
    let authorities = raw.client_ca.map(|list| authorities(list, at));
    // An authority is named in order to be used.
    let asked = raw.client_certificates.unwrap_or(if has_ca {
        raw::ClientCertificates::Required
    } else {
        raw::ClientCertificates::Off
    });
    if asked == raw::ClientCertificates::Off && has_ca {
        at.field("clientCa").warning(
            "client certificates are off, so this authority is never asked",
            "write `clientCertificates: required`, or leave `clientCa` out",
        );
    }
    if asked != raw::ClientCertificates::Off && !has_ca && !at.mentions("clientCa") {
        at.field("clientCertificates").error_with(
            "nobody says who vouches for client certificates",
            "add `clientCa: ca.pem` beside it",
        );
    }
    if asked == raw::ClientCertificates::Off && raw.crls.is_some() {
        at.field("crls").error_with(
            "client certificates are off, so none can be revoked",
            "add `clientCa: ca.pem` beside it, or leave `crls` out",
        );
    }
    let written = raw.crls.is_some();
    let revocation = at.optional("crls", raw.crls, revocation);
    if written && revocation.is_none() {
        return None;
    }
    let trust = || {
        Some(ClientTrust {
            authorities: authorities?,
            revocation,
        })
    };
    let clients = match asked {
        raw::ClientCertificates::Off => Clients::Off,
        raw::ClientCertificates::Optional => Clients::Optional(trust()?),
        raw::ClientCertificates::Required => Clients::Required(trust()?),
    };
    Some(Tls {
        certificates: std::iter::once(first?).chain(more).collect(),
        clients,
    })
}

fn certificate(certificate: Option<String>, key: Option<String>, at: &Place<'_>) -> Option<CertificateFiles> {
    let certificate = at.required("certificate", certificate, |text, at| existing_file(&text, at));
    let key = at.required("key", key, |text, at| existing_file(&text, at));
    let files = CertificateFiles {
        certificate: certificate?,
        key: key?,
    };
    match enforcer_tls::check(&files) {
        Ok(()) => {}
        // Who checks a configuration need not be who may read its keys; the agent refuses to start.
        Err(error @ TlsError::Read { .. }) if is_denied(&error) => at.field("key").warning(
            format!("{error}: whether the key belongs to the certificate is not known"),
            "check as the user that the agent runs as",
        ),
        Err(error) => at.field("certificate").error(error.to_string()),
    }
    Some(files)
}

fn is_denied(error: &TlsError) -> bool {
    matches!(error, TlsError::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
}

fn revocation(raw: raw::Crls, at: &Place<'_>) -> Option<Revocation> {
    let lists = at.required("files", raw.files, |list, place| {
        if list.0.is_empty() {
            place.error("the list is empty: name a file of revocation lists, like crl.pem");
        }
        if list.0.len() > MAX_FILES {
            place.error(format!("there are at most {MAX_FILES} files of revocation lists"));
        }
        Some(at.each("files", list.0, |(text, at)| existing_file(&text, &at)))
    });
    let unsure = |raw| match raw {
        Some(raw::Unsure::Deny) | None => Unsure::Deny,
        Some(raw::Unsure::Allow) => Unsure::Allow,
    };
    Some(Revocation {
        lists: lists?,
        unknown: unsure(raw.unknown),
        expired: unsure(raw.expired),
        depth: match raw.depth {
            Some(raw::Depth::Chain) | None => Depth::Chain,
            Some(raw::Depth::Leaf) => Depth::Leaf,
        },
    })
}
