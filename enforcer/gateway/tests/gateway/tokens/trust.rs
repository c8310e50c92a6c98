//! A verifier of one issuer, whose keys come from a file.

use std::{
    fs,
    sync::Arc,
    time::{Duration, SystemTime},
};

use enforcer_gateway::identity::{
    token::{TokenError, VerifiedToken},
    verifier::Verifier,
};
use enforcer_model::{Issuer, JwksSource, Name};
use jsonwebtoken::Algorithm;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Handle;

use crate::tokens::issuer::{NOW, SigningKey, key_set, policy};

const ALGORITHMS: [Algorithm; 3] = [Algorithm::ES256, Algorithm::EdDSA, Algorithm::RS256];

pub(crate) struct Trust {
    pub(crate) directory: TempDir,
    pub(crate) policy: Issuer,
    pub(crate) verifier: Verifier,
}

impl Trust {
    pub(crate) async fn in_document(document: &Value) -> Self {
        Self::with_policy(document, |_| ()).await
    }

    /// With a policy other than usual.
    pub(crate) async fn with_policy(document: &Value, change: impl FnOnce(&mut Issuer)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("jwks.json");
        fs::write(&file, document.to_string()).unwrap();
        let mut policy = policy(JwksSource::File(file), &ALGORITHMS);
        change(&mut policy);
        let verifier = Verifier::new(&[Arc::new(policy.clone())], None, &Handle::current());
        verifier.first_attempts().await;
        Self {
            directory,
            policy,
            verifier,
        }
    }

    pub(crate) async fn in_keys(keys: &[&SigningKey]) -> Self {
        Self::in_document(&key_set(keys)).await
    }

    pub(crate) fn name(&self) -> &Name {
        &self.policy.name
    }

    pub(crate) fn verify_at(&self, token: &str, seconds: u64) -> Result<Arc<VerifiedToken>, TokenError> {
        self.verifier.verify(self.name(), token, at(seconds))
    }

    pub(crate) fn verify(&self, token: &str) -> Result<Arc<VerifiedToken>, TokenError> {
        self.verify_at(token, NOW)
    }
}

pub(crate) fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

pub(crate) fn with(mut object: Value, name: &str, value: impl Into<Value>) -> Value {
    object[name] = value.into();
    object
}

pub(crate) fn without(mut object: Value, name: &str) -> Value {
    object.as_object_mut().unwrap().remove(name).unwrap();
    object
}
