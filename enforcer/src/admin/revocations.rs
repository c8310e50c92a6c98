//! Revoked proofs over the admin address.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    api::{Operator, ended, not_revoked},
    wire::{CertificateName, Revokee},
};
use crate::agent::{denials::Order, state::Shared};
use enforcer_model::{Credential, Name, PolicySet, Revocation};
use enforcer_policy::{
    judge::revocations::{certificate, text},
    yaml::mistake::nearest,
};

/// A request to end a revocation of a proof.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreRequest {
    pub whom: Revokee,
}

/// A proof that is revoked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevocationStatus {
    pub whom: Revokee,
    pub reason: Option<String>,
    /// RFC 3339. `None`: as long as the file says so.
    pub until: Option<String>,
    /// `operator`, or `FILE:LINE` of the document.
    pub source: String,
}

/// `GET /v1/revocations`
pub async fn revocations(State(shared): State<Arc<Shared>>) -> Json<Vec<RevocationStatus>> {
    let operator = shared
        .policies
        .as_ref()
        .map(|policies| policies.revocations().list());
    let mut found: Vec<_> = operator
        .into_iter()
        .flatten()
        .map(|entry| status(&entry, "operator".to_owned()))
        .collect();
    let set = Arc::clone(&shared.standing().set);
    let now = OffsetDateTime::now_utc();
    for document in &set.revocations {
        let entries = document.entries.iter();
        let holding = entries.filter(|entry| entry.until.is_none_or(|until| until > now));
        found.extend(holding.map(|entry| status(entry, document.origin.to_string())));
    }
    Json(found)
}

/// `DELETE /v1/revocations`
pub async fn restore(
    State(shared): State<Arc<Shared>>,
    Operator(operator): Operator,
    Json(request): Json<RestoreRequest>,
) -> Response {
    match request.whom.credential() {
        Ok(Some(what)) => match shared.restore_proof(&what, operator.as_deref()).await {
            Ok(()) => StatusCode::NO_CONTENT.into_response(),
            Err(error) => not_revoked(&error),
        },
        Ok(None) => {
            unprocessable("only a revocation of a proof can be ended; `enforcer allow` ends a denial")
        }
        Err(why) => unprocessable(&why),
    }
}

/// `POST /v1/revocations` of a proof.
pub(super) async fn revoke(shared: Arc<Shared>, what: Credential, order: Order, unknown: bool) -> Response {
    if !unknown && let Some(why) = unknown_key(&shared.standing().set.clone(), &what) {
        return (StatusCode::NOT_FOUND, format!("{why}\n")).into_response();
    }
    // Who asks may hang up; what is begun is done all the same.
    let work = tokio::spawn(async move { shared.revoke_proof(what, &order).await });
    match work.await {
        Ok(Ok(revoked)) => ended(revoked),
        Ok(Err(error)) => not_revoked(&error),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// A key's id with a typing error would else be revoked, and the key that is meant would not. Subjects, tokens and
/// certificates are in no document: there is nothing to compare them with.
fn unknown_key(set: &PolicySet, what: &Credential) -> Option<String> {
    let Credential::Key(id) = what else { return None };
    let ids = || {
        let documents = set.api_keys.iter();
        documents.flat_map(|document| document.keys.iter().map(|key| &*key.id))
    };
    if ids().any(|known| known == &**id) {
        return None;
    }
    let near = nearest(id, ids());
    let meant = near.map_or_else(|| ".".to_owned(), |near| format!("; did you mean `{near}`?"));
    Some(format!(
        "no document has an API key `{id}`{meant} Nothing is revoked: --yes (`unknown: true`) revokes it all the same"
    ))
}

pub(super) fn unprocessable(why: &str) -> Response {
    (StatusCode::UNPROCESSABLE_ENTITY, format!("{why}\n")).into_response()
}

fn status(entry: &Revocation, source: String) -> RevocationStatus {
    RevocationStatus {
        whom: Revokee::from(&entry.what),
        reason: entry.reason.as_deref().map(str::to_owned),
        until: entry
            .until
            .and_then(|until| until.truncate_to_second().format(&Rfc3339).ok()),
        source,
    }
}

impl Revokee {
    /// The proof that is meant. `None`: connections are.
    ///
    /// # Errors
    /// What is wrong with its name.
    pub fn credential(&self) -> Result<Option<Credential>, String> {
        let named = |issuer: &str| issuer.parse::<Name>();
        Ok(Some(match self {
            Self::Prefix(_) | Self::Endpoint(_) | Self::Identity(_) => return Ok(None),
            Self::Token { issuer, jti } => Credential::Token {
                issuer: named(issuer)?,
                id: text(jti)?,
            },
            Self::Subject { issuer, sub } => Credential::Subject {
                issuer: named(issuer)?,
                subject: text(sub)?,
            },
            Self::Client { issuer, client_id } => Credential::Client {
                issuer: named(issuer)?,
                client: text(client_id)?,
            },
            Self::ApiKey(id) => Credential::Key(text(id)?),
            Self::Certificate(CertificateName {
                sha256,
                serial,
                issuer,
            }) => certificate(sha256.as_deref(), serial.as_deref(), issuer.as_deref())?,
        }))
    }
}

impl From<&Credential> for Revokee {
    fn from(what: &Credential) -> Self {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        match what {
            Credential::Token { issuer, id } => Self::Token {
                issuer: issuer.to_string(),
                jti: id.to_string(),
            },
            Credential::Subject { issuer, subject } => Self::Subject {
                issuer: issuer.to_string(),
                sub: subject.to_string(),
            },
            Credential::Client { issuer, client } => Self::Client {
                issuer: issuer.to_string(),
                client_id: client.to_string(),
            },
            Credential::Key(id) => Self::ApiKey(id.to_string()),
            Credential::Certificate(fingerprint) => Self::Certificate(CertificateName {
                sha256: Some(hex(fingerprint)),
                ..CertificateName::default()
            }),
            Credential::Serial { issuer, serial } => Self::Certificate(CertificateName {
                serial: Some(hex(serial)),
                issuer: Some(issuer.to_string()),
                ..CertificateName::default()
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proofs_come_back_as_they_were_sent() {
        let certificate = |sha256: Option<&str>, serial: Option<&str>, issuer: Option<&str>| {
            Revokee::Certificate(CertificateName {
                sha256: sha256.map(str::to_owned),
                serial: serial.map(str::to_owned),
                issuer: issuer.map(str::to_owned),
            })
        };
        let fingerprint = "ab".repeat(32);
        for whom in [
            Revokee::Token {
                issuer: "corp".into(),
                jti: "4711".into(),
            },
            Revokee::Subject {
                issuer: "corp".into(),
                sub: "alice".into(),
            },
            Revokee::Client {
                issuer: "corp".into(),
                client_id: "web".into(),
            },
            Revokee::ApiKey("partner-a".into()),
            certificate(Some(&fingerprint), None, None),
            certificate(None, Some("0a1b"), Some("CN=authority")),
        ] {
            let text = serde_json::to_string(&whom).unwrap();
            assert_eq!(serde_json::from_str::<Revokee>(&text).unwrap(), whom, "{text}");
            let what = whom.credential().unwrap().unwrap();
            assert_eq!(Revokee::from(&what), whom, "{what}");
        }
        for wrong in [
            certificate(Some("ab"), None, None),
            certificate(None, Some("0a"), None),
            certificate(None, None, None),
            certificate(None, Some("xy"), Some("CN=a")),
            certificate(None, Some(&"ab".repeat(21)), Some("CN=a")),
            Revokee::ApiKey(String::new()),
            Revokee::Token {
                issuer: "https://idp".into(),
                jti: "1".into(),
            },
        ] {
            assert!(wrong.credential().is_err(), "{wrong:?}");
        }
        let colons = certificate(Some(&["AB"; 32].join(":")), None, None);
        assert_eq!(colons.credential(), Ok(Some(Credential::Certificate([0xab; 32]))));
        let padded = certificate(None, Some("00:0A"), Some("CN=a")).credential();
        let serial: Arc<[u8]> = [0x0a].as_slice().into();
        assert_eq!(
            padded,
            Ok(Some(Credential::Serial {
                issuer: "CN=a".into(),
                serial
            }))
        );
    }
}
