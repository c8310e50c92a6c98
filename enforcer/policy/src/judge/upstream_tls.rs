//! How `https` endpoints are spoken to.

use std::path::PathBuf;

use super::{distinct_of, values};
use crate::{
    raw,
    yaml::place::{Place, parsed},
};
use enforcer_model::{OwnCertificate, UpstreamTls, leaf::SpiffePattern};
use enforcer_tls::service::{check, server_name};

pub(super) fn build(raw: raw::UpstreamTls, at: &Place<'_>) -> Option<UpstreamTls> {
    let name = |text: &str| server_name(text).map(|_| text.into());
    let name = at.optional("serverName", raw.server_name, parsed(name));
    let spiffe = raw.spiffe.map(|list| list.0);
    let spiffe = values(distinct_of(at, "spiffe", spiffe, str::parse::<SpiffePattern>));
    let file = |text: String, at: &Place<'_>| file(&text, at);
    let (ca, certificate, key) = (
        at.optional("ca", raw.ca, file),
        at.optional("certificate", raw.certificate, file),
        at.optional("key", raw.key, file),
    );
    let own = match (certificate, key) {
        (Some(certificate), Some(key)) => Some(OwnCertificate { certificate, key }),
        _ if at.mentions("certificate") != at.mentions("key") => {
            at.error("a certificate and its key are given together: write both, or leave both out");
            return None;
        }
        _ => None,
    };
    let complete = ca.is_some() == at.mentions("ca") && own.is_some() == at.mentions("key");
    let tls = UpstreamTls {
        ca,
        server_name: name,
        spiffe,
        own,
    };
    // Files that cannot be read have been reported.
    if complete && let Err(message) = check(&tls) {
        at.error(message);
    }
    Some(tls)
}

fn file(text: &str, at: &Place<'_>) -> Option<PathBuf> {
    let path = at.beside(text);
    if !path.is_file() {
        at.error(format!("there is no file {}", path.display()));
        return None;
    }
    Some(path)
}
