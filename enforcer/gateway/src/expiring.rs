//! How long what the gateway uses is valid: told as metrics, and logged while something is wrong with it.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use x509_parser::time::ASN1Time;

use super::{listener::ListenerContext, metrics::GatewayMetrics, policies::Generation};
use enforcer_model::Name;
use enforcer_tls::{Expiry, service::ServiceTls};

/// Tells until when a listener's files are valid.
pub(super) fn show_listener(listener: &ListenerContext, metrics: &GatewayMetrics) {
    let Some(tls) = &listener.tls else { return };
    let name = listener.name.as_str();
    for Expiry { file, at } in tls.expiries() {
        let labels = [name, "", &file.to_string_lossy()];
        metrics.certificate_expiry.with_label_values(&labels).set(at);
    }
    for Expiry { file, at } in tls.next_updates() {
        let labels = [name, &file.to_string_lossy()];
        metrics.crl_next_update.with_label_values(&labels).set(at);
    }
    for concern in tls.concerns(ASN1Time::now()) {
        tracing::warn!(
            listener = name,
            concern,
            "a file of the listener needs to be replaced"
        );
    }
}

/// Takes back what [`show_listener`] has told of a listener.
pub(super) fn forget_listener(listener: &ListenerContext, metrics: &GatewayMetrics) {
    let Some(tls) = &listener.tls else { return };
    let name = listener.name.as_str();
    for Expiry { file, .. } in tls.expiries() {
        let labels = [name, "", &file.to_string_lossy()];
        metrics
            .certificate_expiry
            .remove_label_values(&labels)
            .unwrap_or_default();
    }
    for Expiry { file, .. } in tls.next_updates() {
        let labels = [name, &file.to_string_lossy()];
        metrics
            .crl_next_update
            .remove_label_values(&labels)
            .unwrap_or_default();
    }
}

/// Of which services it has been told, and of which of their files.
#[derive(Default)]
pub(super) struct Shown(HashMap<Name, Told>);

/// What has been told of one.
struct Told {
    of: Arc<ServiceTls>,
    version: u64,
    files: Vec<PathBuf>,
}

impl Shown {
    /// Tells of the services whose files are others than before, or of all, `again`; takes back what is not so any more.
    pub(super) fn look(&mut self, generation: &Generation, metrics: &GatewayMetrics, again: bool) {
        let mut old = std::mem::take(&mut self.0);
        for (service, tls) in generation.set.services.iter().zip(&generation.tls) {
            let (name, Some(tls)) = (&service.name, tls) else {
                continue;
            };
            let known = old.remove(name);
            let told = match known {
                Some(told) if !again && told.is_about(tls) => told,
                _ => {
                    let new = Told::of(name, tls, metrics);
                    let gone = |file: &&PathBuf| !new.files.contains(file);
                    let files = known.iter().flat_map(|told| &told.files);
                    take_back(name, files.filter(gone), metrics);
                    new
                }
            };
            self.0.insert(name.clone(), told);
        }
        for (name, told) in &old {
            take_back(name, told.files.iter(), metrics);
        }
    }
}

impl Told {
    fn of(name: &Name, tls: &Arc<ServiceTls>, metrics: &GatewayMetrics) -> Self {
        // Before what it stands for: a change in between is told by the next look.
        let version = tls.version();
        let dated = tls.dated();
        for dated in &dated {
            let labels = ["", name.as_str(), &dated.file.to_string_lossy()];
            metrics
                .certificate_expiry
                .with_label_values(&labels)
                .set(dated.expires());
            if let Some(concern) = dated.concern(ASN1Time::now()) {
                tracing::warn!(service = %name, concern, "a file of the service needs to be replaced");
            }
        }
        Self {
            of: Arc::clone(tls),
            version,
            files: dated.into_iter().map(|dated| dated.file).collect(),
        }
    }

    fn is_about(&self, tls: &Arc<ServiceTls>) -> bool {
        Arc::ptr_eq(tls, &self.of) && tls.version() == self.version
    }
}

fn take_back<'a>(name: &Name, files: impl Iterator<Item = &'a PathBuf>, metrics: &GatewayMetrics) {
    for file in files {
        let labels = ["", name.as_str(), &file.to_string_lossy()];
        metrics
            .certificate_expiry
            .remove_label_values(&labels)
            .unwrap_or_default();
    }
}
